"""Measures igb beside the script a researcher would otherwise write, in one run: `make bench`."""

import argparse
import contextlib
import copy
import functools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra.errors import HydraException
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.baseline import finish
from igb import experiment
from igb._checks import InputError, one_line
from igb._settings import flushed_denormals, restored_settings, without_tf32
from igb.compute import ALL_THREADS
from igb.compute.mode import PRECISIONS, has_bfloat16
from igb.data import EpochSampler
from igb.folder.provenance import provenance
from igb.losses import CrossEntropy
from igb.schedule import Schedule
from igb.training.classifier import Classifier
from igb.training.probe import Probe, ProbeCallback
from igb.training.step import GraphedStep, Step
from igb.training.stopwatch import Stopwatch

MODES = ("exact", "fast")
TOLERANCE = {"exact": 1e-4, "fast": 5e-3}  # of mean class probabilities, against the baseline's
# By the kind of device: images in an eager forward pass, products [M, K] x [K, N], workers, images to validate at once.
EAGER_BATCHES = {"cpu": (250, 500), "cuda": (500, 1000, 2000)}
GEMMS = {
    "cpu": ((2048, 2048, 2048), (500, 1024, 1024), (2000, 512, 1024), (8192, 256, 256)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}
WORKERS = {"cpu": (0, 1, 2), "cuda": (0, 1, 2, 4, 8)}
VALIDATION_BATCHES = {"cpu": (128, 500, 1000), "cuda": (128, 500, 1000, 2000)}
WARM_UP = 6  # steps and probes before those that are timed, in which a card's are recorded
PROFILED = 4  # batches with a probe after each
BOOKKEEPING = (10, 1000)  # classes
POINTS = 40  # of the log figure
BOTH_SIDES = ("data", "model", "init", "seed", "init_seed", "data_seed", "optimizer.lr", "compute.threads")


class Times:
    """Seconds of each named piece of work; a cell of the table shows their median and half their spread."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Note one more measurement."""
        self.seconds.setdefault(name, []).append(seconds)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work and note its time."""
        finish()
        started = time.perf_counter()
        result = work()
        finish()
        self.add(name, time.perf_counter() - started)
        return result

    def median(self, name: str) -> float:
        """The median of what was noted."""
        return statistics.median(self.seconds[name])

    def spread(self, name: str) -> float:
        """Half the distance from the fastest to the slowest, as a share of the median."""
        seconds = self.seconds[name]
        return (max(seconds) - min(seconds)) / 2 / self.median(name)


class Block(pl.Callback):
    """After every `size` steps of a run, does half as many in a bare loop, and notes the seconds of a step of both.

    Those of igb are without its probes, unless `with_probes`.
    """

    def __init__(self, times: Times, name: str, size: int, bare: Callable[[], Any], with_probes: bool = False) -> None:
        self.times, self.name, self.size, self.bare, self.with_probes = times, name, size, bare, with_probes
        self.probe_seconds = self.started = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the stopwatch, by which the time of probes does not count."""
        (probe,) = (callback for callback in trainer.callbacks if isinstance(callback, ProbeCallback))  # type: ignore[attr-defined]
        self.stopwatch = probe.stopwatch

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """At the end of a block: note its time, less that of probes in it, and time the bare loop."""
        if index % self.size:
            return
        finish()
        now = time.perf_counter()
        probe = 0.0 if self.with_probes else self.stopwatch.probes
        if index:
            self.times.add(f"{self.name} igb", (now - self.started - (probe - self.probe_seconds)) / self.size)
            started, steps = time.perf_counter(), max(1, self.size // 2)
            for _ in range(steps):
                self.bare()
            finish()
            self.times.add(f"{self.name} bare", (time.perf_counter() - started) / steps)
        self.started, self.probe_seconds = time.perf_counter(), probe


class Busy(pl.Callback):
    """Profiles some batches of a run with a probe after each, and keeps the share of the time the card computes in."""

    share = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Start the profiler, and stop it."""
        if index == WARM_UP:
            finish()
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profiler.start()
            self.started = time.perf_counter()
        elif index == WARM_UP + PROFILED:
            finish()
            seconds = time.perf_counter() - self.started
            self.profiler.stop()
            kernels = [event.time_range for event in self.profiler.events() if event.device_type.name == "CUDA"]
            self.share = covered((kernel.start, kernel.end) for kernel in kernels) / 1e6 / seconds


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what intervals cover together."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def run(arguments: Sequence[str] | None) -> None:
    """`main`, with one line for bad input."""
    try:
        main(arguments)
    except (InputError, HydraException, OSError) as error:
        sys.exit(f"bench: {one_line(error)}")


def main(arguments: Sequence[str] | None) -> None:
    """Measure, check that both sides agree, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the config, such as data=image_folder data.root=FOLDER")
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        default=(50_000, 10_000),
        metavar=("TRAIN", "TEST"),
        help="images per epoch and per probe, those of the data again and again (default: as many as in the protocol)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="repeats of what is measured in turn")
    parser.add_argument("--steps", type=int, default=200, help="steps that the framework's overhead is measured over")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a CUDA card if there is one")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_intermixed_args(arguments)
    if min(options.repeats, options.steps, *options.images) < 1:
        parser.error("--images, --repeats and --steps must be at least 1")
    has_card = torch.cuda.device_count() > 0
    device = options.device or ("cuda" if has_card else "cpu")
    if device == "cuda" and not has_card:
        parser.error("--device cuda: this machine has no CUDA card")
    options.output.open("a").close()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads once, whichever side is first
    started = time.perf_counter()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        train, test = options.images
        bench = Bench(options.overrides, train, test, device)
        if bench.modes != MODES:
            print("this machine has no bfloat16: fast is exact, and is not measured")
        bench.check_agreement()
        bench.measure_parts(options.repeats)
        bench.measure_whole(options.repeats, Path(folder))
        bench.measure_overhead(options.steps, Path(folder))
        for classes in BOOKKEEPING:
            bench.measure_bookkeeping(classes, options.steps, Path(folder))
        if device == "cuda":
            bench.measure_card(Path(folder))
        bench.measure_start(options.repeats, Path(folder))
    rows = bench.rows()
    print(table(rows))
    print(f"\nmeasured in {time.perf_counter() - started:.0f} s; {bench.workload()}")
    values = {
        "rows": rows,
        "seconds": bench.times.seconds,
        "precision": {mode: bench.precision(mode) for mode in bench.modes},
        "workload": bench.workload(),
        "environment": {**provenance(), **bench.card()},
        "threads": torch.get_num_threads(),
    }
    options.output.write_text(json.dumps(values, indent=1) + "\n")


class Bench:
    """One data set, one network, three sides."""

    def __init__(self, overrides: Sequence[str], train: int, test: int, device: str = "cpu") -> None:
        for key in (item.lstrip("+~").partition("=")[0] for item in overrides):
            if not {key, key.partition(".")[0]} & set(BOTH_SIDES):
                raise InputError(f"{key} would change one side alone; what changes both is {', '.join(BOTH_SIDES)}")
        if not any(item.startswith("data=") for item in overrides):
            overrides = ["data=digits", *overrides]
        self.device, self.accelerator = torch.device(device), "gpu" if device == "cuda" else "cpu"
        self.overrides = [f"trainer.accelerator={self.accelerator}", "loss=ce", "init=torchvision", *overrides]
        self.times, self.shares, self.card_memory = Times(), dict[str, float](), dict[str, float]()
        self.modes = MODES if has_bfloat16(self.device) else MODES[:1]
        self.parts = {mode: experiment.build(self.config(f"compute={mode}")) for mode in self.modes}
        torch.set_num_threads(self.parts["exact"].compute.threads or ALL_THREADS)  # of the sides other than igb's
        self.data = self.parts["exact"].data
        self.data.setup()
        self.available = len(self.data.test_labels)
        self.data = repeated(self.data, train, test)
        self.network = self.parts["exact"].make_network()
        self.classes = len(self.data.class_names)
        self.lr = self.config().optimizer.lr
        self.classifiers = {mode: self.classifier(mode) for mode in self.modes}
        self.baseline_options = (0, 500)
        every = len(self.data.test_labels)
        self.counts = {"eager": self.some, "exact": min(2 * self.some, every), "fast": every}  # images of a probe
        if device == "cuda":
            self.counts = dict.fromkeys(self.counts, every)

    def config(self, *overrides: str) -> DictConfig:
        """The config of the run that is measured."""
        return experiment.compose(*self.overrides, *overrides)

    def precision(self, mode: str) -> str:
        """What a mode computes in on this machine."""
        return self.parts[mode].compute.precision

    def classifier(self, mode: str) -> Classifier:
        """The side of igb, from the common initial weights."""
        parts = self.parts[mode]
        compute = parts.compute.on(self.device, parts.compute.threads or ALL_THREADS)
        network = copy.deepcopy(self.network)
        return Classifier(network, parts.loss_schedule, parts.make_optimizer, compute).to(self.device)

    @contextlib.contextmanager
    def settings(self, side: str) -> Iterator[None]:
        """Inside, the process computes as a run of this mode; any other side as torch does, in full float32."""
        if side not in MODES:
            with without_tf32():
                yield
            return
        with restored_settings():
            self.classifiers[side].compute.set_up(self.device)
            yield

    def baseline(self) -> baseline.Baseline:
        """The other side, from the common initial weights."""
        return baseline.Baseline(copy.deepcopy(self.network), self.classes, self.lr)

    @functools.cache  # noqa: B019  (there is one bench)
    def prober(self, mode: str, count: int | None) -> Callable[[], Tensor]:
        """Measures the mean probability of each class over the test images, as a run does."""
        images, labels = (part[:count].to(self.device) for part in (self.data.test_images, self.data.test_labels))
        schedule = Schedule.of(1, 0, None, None)
        probing = ProbeCallback(
            Probe(), images, labels, self.data.scale, self.classes, schedule, Stopwatch(), print, finish
        )

        def probe() -> Tensor:
            stats = probing.measure(self.classifiers[mode], 0)[0].statistics
            probing.dominance = stats.dominance
            return stats.probability

        return probe

    def check_agreement(self) -> None:
        """Exit with a message unless all sides measure the same probabilities of the same weights."""
        module = self.baseline().eval().to(self.device)
        for images, labels in baseline.loaders(self.part(), *self.baseline_options)[1]:
            with torch.no_grad(), without_tf32():
                module.probability.update(module.network(images.to(self.device)), labels.to(self.device))
        expected = module.probability.compute().cpu()
        for mode in self.modes:
            with self.settings(mode):
                difference = float((self.prober(mode, self.some)() - expected).abs().max())
            if not difference <= TOLERANCE[mode]:
                sys.exit(f"bench: {mode} and the baseline differ by {difference:.2g} in p̄; at most {TOLERANCE[mode]:g}")
            print(f"{mode} and the baseline differ by {difference:.1e} in p̄ of the initial network")

    def measure_parts(self, repeats: int) -> None:
        """Training steps, forward passes and matrix products by themselves, in turn."""
        steps = {"eager": self.eager_step(), **{mode: self.bare_step(mode) for mode in self.modes}}
        before = WARM_UP if self.device.type == "cuda" else 1
        for turn in range(4 * repeats + before):
            for side, step in steps.items():
                with self.settings(side):
                    step() if turn < before else self.times.time(f"{side} step", step)
        images = self.data.scale(self.data.test_images[: self.counts["eager"]].to(self.device))
        passes = {
            (layout, size): functools.partial(in_parts, self.plain(layout), images, size)
            for layout in (torch.contiguous_format, torch.channels_last)
            for size in EAGER_BATCHES[self.device.type]
        }
        first = Times()
        for key, work in passes.items():
            work()
            first.time(str(key), work)
        best = passes[min(passes, key=lambda key: first.median(str(key)))]
        for turn in range(repeats):
            with self.settings("eager"):
                self.times.time("eager probe", best)
            for mode in self.modes:
                probe = self.prober(mode, self.counts[mode])
                with self.settings(mode):
                    for _ in range(before - 1 if turn == 0 else 0):
                        probe()
                    self.times.time(f"{mode} probe", probe)
            for dtype in {PRECISIONS[self.precision(mode)] for mode in self.modes}:
                for m, k, n in GEMMS[self.device.type]:
                    left, right = (torch.randn(*size, device=self.device).to(dtype) for size in ((m, k), (k, n)))
                    with without_tf32():
                        torch.mm(left, right)
                        self.times.time(f"{dtype} {m} {k} {n}", functools.partial(torch.mm, left, right))

    def part(self) -> Any:
        """The data with fewer test images."""
        data = copy.copy(self.data)
        data.test_images, data.test_labels = data.test_images[: self.some], data.test_labels[: self.some]
        return data

    def plain(self, layout: torch.memory_format) -> nn.Module:
        """The plain network in evaluation mode."""
        return copy.deepcopy(self.network).eval().to(self.device).to(memory_format=layout)

    @property
    def some(self) -> int:
        """Test images on which eager float32 is measured, and the agreement of all sides."""
        return min(2000, len(self.data.test_labels))

    def eager_step(self) -> Callable[[], Any]:
        """A step of the plain network in float32."""
        network = copy.deepcopy(self.network).train().to(self.device)
        return self.step(Step(network, torch.optim.SGD(network.parameters(), lr=self.lr)), F.cross_entropy)

    def bare_step(self, mode: str) -> Callable[[], Any]:
        """The forward, backward and optimizer calls of igb, without Lightning and records."""
        classifier = self.classifier(mode).train()
        step = Step(classifier, classifier.configure_optimizers())
        is_recorded = classifier.compute.is_recorded(self.device)
        return self.step(GraphedStep(step) if is_recorded else step, CrossEntropy())

    def step(self, step: Step | GraphedStep, loss: Any) -> Callable[[], Any]:
        """A training step on one batch."""
        images = self.data.scale(self.data.train_images[: self.data.batch_size].to(self.device))
        labels = self.data.train_labels[: self.data.batch_size].to(self.device)
        return lambda: step(images, labels, loss)

    def measure_whole(self, repeats: int, folder: Path) -> None:
        """Batches with the full probe after each, as a user would run them, in turn."""
        kind, pinned = self.device.type, self.device.type == "cuda"

        def fit(data: Any, workers: int, batch_size: int) -> float:
            loaders = baseline.loaders(data, workers, batch_size, pinned)
            # A card's libraries set themselves up in the first batch.
            return baseline.fit(self.baseline(), loaders, str(folder), self.accelerator, batches=2 if pinned else 1)

        data = self.data if pinned else self.part()  # starting workers would hide what few images take a card
        size = min(VALIDATION_BATCHES[kind], key=lambda size: fit(data, 0, size))
        workers = min(WORKERS[kind], key=lambda workers: fit(data, workers, size))
        self.baseline_options = (workers, size)
        # A run writes a checkpoint within its last batch, which on a card would be most of the time.
        batches = WARM_UP + 1 if pinned else 1
        for turn in range(repeats):
            self.times.add("baseline whole", fit(self.data, *self.baseline_options))
            for mode in self.modes:
                clock = baseline.Clock()
                self.run(mode, folder / f"{mode}-{turn}", clock, f"trainer.max_steps={batches}")
                self.times.add(f"{mode} whole", clock.seconds[-2 if pinned else -1])

    def run(
        self, mode: str, folder: Path, callback: pl.Callback, *overrides: str, data: Any = None, network: Any = None
    ) -> None:
        """A run of igb with one more callback."""
        config = self.config(f"compute={mode}", *overrides)
        parts = experiment.build(config)
        network = network or self.network
        parts = parts._replace(data=data or self.data, make_network=lambda: copy.deepcopy(network))
        with restored_settings(), flushed_denormals():
            experiment.carry_out(parts, config, folder, [callback])

    def measure_overhead(self, steps: int, folder: Path) -> None:
        """Blocks of steps through igb and blocks of bare steps, in turn."""
        data = repeated(self.data, self.data.batch_size * (steps + 1), len(self.data.test_labels))
        for mode in self.modes:
            block = Block(self.times, mode, max(1, steps // 10), self.bare_step(mode))
            few = f"probe.images={self.classes}"
            options = (f"trainer.max_steps={steps + 1}", "probe=log", "probe.points=11", few)
            self.run(mode, folder / f"overhead-{mode}", block, *options, data=data)

    def measure_bookkeeping(self, classes: int, steps: int, folder: Path) -> None:
        """Steps and probes of a linear network through igb, and its bare forward and backward passes, in turn.

        A probe sees two images per class. What the passes do not take is bookkeeping: statistics, records, callbacks.
        """
        data = repeated(self.data, 2 * (steps + 1), 2 * classes)
        data.class_names = [f"class {k}" for k in range(classes)]
        data.train_labels, data.test_labels = (torch.arange(n) % classes for n in (2 * (steps + 1), 2 * classes))
        data.batch_size, data._sampler = 2, EpochSampler(2 * (steps + 1), 2, 0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(self.data.test_images[0].numel(), classes)).to(self.device)
        step = Step(network, torch.optim.SGD(network.parameters(), lr=self.lr))
        batch, labels = data.scale(data.train_images[:2].to(self.device)), data.train_labels[:2].to(self.device)
        images = data.test_images.to(self.device)

        def passes() -> None:
            step(batch, labels, CrossEntropy())
            in_parts(network, data.scale(images), 500)

        block = Block(self.times, f"{classes} classes", max(1, steps // 10), passes, with_probes=True)
        limit = f"trainer.max_steps={steps + 1}"
        self.run(
            "exact", folder / f"bookkeeping-{classes}", block, limit, "probe=every_batch", data=data, network=network
        )

    def measure_card(self, folder: Path) -> None:
        """The share of the time in which the card computes, and its memory, over batches with the full probe."""
        for mode in self.modes:
            busy = Busy()
            torch.cuda.reset_peak_memory_stats()
            self.run(mode, folder / f"busy-{mode}", busy, f"trainer.max_steps={WARM_UP + PROFILED + 1}")
            self.shares[mode], self.card_memory[mode] = busy.share, torch.cuda.max_memory_allocated()

    def card(self) -> dict[str, Any]:
        """The card and its driver; nothing on a CPU."""
        if self.device.type != "cuda":
            return {}
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
            return {"card": torch.cuda.get_device_name(), "driver": lines[:1], "cuda": torch.version.cuda}
        return {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}

    def measure_start(self, repeats: int, folder: Path) -> None:
        """From the command to the first record, and the memory of a short run, in processes of their own."""
        self.memory = {}
        for turn in range(repeats):
            for mode in self.modes:
                run = folder / f"start-{mode}-{turn}"
                some = f"probe.images={max(self.classes, min(500, self.available))}"
                options = [*self.overrides, f"compute={mode}", "trainer.max_steps=2", "probe=log", some]
                command = [sys.executable, "-m", "igb", *options, f"hydra.run.dir={run}"]
                started = time.perf_counter()
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                while process.poll() is None and not recorded(run / "metrics.csv"):
                    time.sleep(0.02)
                self.times.add(f"{mode} start", time.perf_counter() - started)
                if process.wait() != 0:
                    sys.exit(f"bench: {' '.join(command)} ended with status {process.returncode}")
                self.memory[mode] = json.loads((run / "run.json").read_text())["peak_memory_bytes"]

    def rows(self) -> list[dict[str, Any]]:
        """The table: what was measured, for each side, with ratios to the baseline or to eager float32."""
        times, steps = self.times, self.data.steps_per_epoch
        flops = self.flops()
        limit = {
            mode: max(2 * m * k * n / times.median(f"torch.{dtype} {m} {k} {n}") for m, k, n in GEMMS[self.device.type])
            for mode, dtype in (("eager", "float32"), *((mode, self.precision(mode)) for mode in self.modes))
        }
        probe = {side: f"{side} probe" for side in ("eager", *self.modes)}
        rows = [
            self.row("batch + full probe, s", {side: f"{side} whole" for side in ("baseline", *self.modes)}),
            self.row("training step, ms", {side: f"{side} step" for side in ("eager", *self.modes)}, scale=1e3),
            self.row("probe, images/s", probe, counts=self.counts),
        ]
        figure = {"baseline": steps * times.median("baseline whole")}
        for mode in self.modes:
            step = times.median(f"{mode} igb")
            figure[mode] = steps * step + (POINTS + 1) * (times.median(f"{mode} whole") - step)
        rows.append(derived("log figure, s (baseline: every batch)", figure, figure["baseline"]))
        if self.device.type == "cuda":
            epoch = {side: steps * times.median(f"{side} whole") for side in ("baseline", *self.modes)}
            rows.append(derived("epoch one with every batch probed, s (worked out)", epoch, epoch["baseline"]))
            rows.append(derived("share of the time in which the card computes, %", scaled(self.shares, 100)))
            rows.append(derived("peak memory of the card, MB", scaled(self.card_memory, 1e-6)))
        pairs = {
            mode: zip(times.seconds[f"{mode} bare"], times.seconds[f"{mode} igb"], strict=True) for mode in self.modes
        }
        overhead = {mode: statistics.median(100 * (1 - bare / igb) for bare, igb in pairs[mode]) for mode in self.modes}
        rows.append(derived("framework overhead of a step, %", overhead))
        for classes in BOOKKEEPING:
            igb, bare = (times.median(f"{classes} classes {side}") for side in ("igb", "bare"))
            rows.append(
                derived(f"bookkeeping of a step and probe, {classes:,} classes, ms", {"exact": 1e3 * (igb - bare)})
            )
        rows.append(self.row("start to first record, s", {mode: f"{mode} start" for mode in self.modes}))
        rows.append(derived("peak memory, MB", {mode: value / 1e6 for mode, value in self.memory.items()}))
        rows.append(derived("matrix product limit, GFLOP/s", {side: value / 1e9 for side, value in limit.items()}))
        share = {side: self.counts[side] / times.median(name) * flops / limit[side] for side, name in probe.items()}
        rows.append(derived("share of it in the probe, %", {side: 100 * value for side, value in share.items()}))
        size = self.data.batch_size
        share = {side: 3 * size * flops / times.median(f"{side} step") / limit[side] for side in ("eager", *self.modes)}
        rows.append(derived("share of it in a step, %", {side: 100 * value for side, value in share.items()}))
        return rows

    def row(
        self, name: str, names: dict[str, str], scale: float = 1.0, counts: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """A measured row: medians in seconds times `scale`, or `counts` a second, with spreads and ratios."""
        values = {side: scale * self.times.median(key) for side, key in names.items()}
        if counts:
            values = {side: counts[side] / value for side, value in values.items()}
        first = next(iter(names))
        ratios = {side: value / values[first] if counts else values[first] / value for side, value in values.items()}
        spreads = {side: self.times.spread(key) for side, key in names.items()}
        return {"name": name, "values": values, "spreads": spreads, "ratios": ratios if first not in MODES else {}}

    def flops(self) -> int:
        """Floating-point operations of a forward pass of the plain network, for one image."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.deepcopy(self.network).eval()(self.data.scale(self.data.test_images[:1]))
        return counter.get_total_flops()

    def workload(self) -> str:
        """What was measured, in a few words."""
        workers, size = self.baseline_options
        return (
            f"{' '.join(self.overrides)}: {self.data.steps_per_epoch:,} batches of {self.data.batch_size} images, "
            f"{len(self.data.test_labels):,} images per probe, {self.flops() / 1e6:.0f} MFLOP per image forward; "
            f"baseline with {workers} workers and validation batches of {size}"
        )


def recorded(file: Path) -> bool:
    """Whether a table has a row yet."""
    return file.exists() and file.read_bytes().count(b"\n") > 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, neither Lightning nor igb's runs say anything."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "igb")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torchmetrics|torch)\..*")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.inference_mode()
def in_parts(network: nn.Module, images: Tensor, size: int) -> None:
    """Forward passes of `size` images each."""
    for part in images.split(size):
        network(part)


def repeated(data: Any, train: int, test: int) -> Any:
    """A data module that serves `train` and `test` images, in a shuffled order, each as often as it takes."""
    result = copy.copy(data)
    for split, count in (("train", train), ("test", test)):
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        order = order[torch.arange(count) % len(order)]
        setattr(result, f"{split}_images", images[order])
        setattr(result, f"{split}_labels", labels[order])
    result._sampler = EpochSampler(train, data.batch_size, 0)
    return result


def derived(name: str, values: dict[str, float], reference: float | None = None) -> dict[str, Any]:
    """A row worked out from others."""
    ratios = {side: reference / value for side, value in values.items()} if reference else {}
    return {"name": name, "values": values, "spreads": {}, "ratios": ratios}


def scaled(values: dict[str, float], factor: float) -> dict[str, float]:
    """All values times a factor."""
    return {name: factor * value for name, value in values.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown: value, spread, and how many times faster than the first column."""
    lines = ["| | baseline, or eager float32 | exact | fast |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = []
        for sides in (("baseline", "eager"), ("exact",), ("fast",)):
            side = next((side for side in sides if side in row["values"]), "")
            cell = f"{row['values'][side]:.3g}" if side else ""
            if side in row["spreads"]:
                cell += f" ± {100 * row['spreads'][side]:.0f} %"
            if side in MODES and side in row["ratios"]:
                cell += f", **{row['ratios'][side]:.3g} x**"
            cells.append(cell)
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(None)
