"""The records of a run: what its folder holds, written so that it can be read while the run goes on."""

import contextlib
import csv
import datetime
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter

from igb._checks import InputError
from igb._paths import checkpoint_path, make_folder
from igb.losses import LossSchedule, TrueClassLoss, loss_curve
from igb.probe import Probe, ProbeResult
from igb.training import Classifier

METRICS = ("probability", "accuracy", "mean_probability", "guess_fraction", "loss", "gradient_norm", "active_fraction")
METRICS_HEADER = ("step", "epoch", "batch_norm", "class", "class_name", "count", *METRICS)
TRAIN_HEADER = ("step", "epoch", "loss", "lr", "images_per_second")
LOSS_CURVE_HEADER = ("from_epoch", "name", "p_y", "loss", "gradient")
STEPS_BETWEEN_READS = 50  # a loss stays on the device until then, so that training need not wait for it
PACKAGES = ("igb", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Hold Ctrl-C back until the record inside is written whole; also a decorator."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


class DivergedError(RuntimeError):
    """The training loss is no longer finite; the run ends as a result like any other."""


class Records(pl.Callback):
    """Writes a run's folder; as a context manager it also settles how the run ended.

    Args:
        folder: the run's folder; InputError if it holds a run already or cannot be written.
        probe: the callback whose results are recorded; it stands before this one in the trainer's list.
        config: the run's config.
    """

    def __init__(self, folder: Path, probe: Probe, config: DictConfig) -> None:
        refuse_taken(folder)
        make_folder(folder, exclusively=False)
        self.folder, self.probe, self.config = folder, probe, config
        self.status = "running"
        seeds = {key: config[key] for key in ("seed", "init_seed", "data_seed")}
        started = datetime.datetime.now(datetime.UTC).isoformat()
        self._entries: dict[str, Any] = {"started": started, "seeds": seeds, **environment()}
        self._started = time.perf_counter()
        self._owned = False
        self._files: list[Any] = []  # what is flushed after each record and closed at the end
        self._pending: list[tuple[int, torch.Tensor, float, int]] = []  # step, loss, learning rate, images
        self._matrices: list[ProbeResult] = []

    def __enter__(self) -> "Records":
        return self

    @whole()
    def start(self) -> None:
        """Take the folder; raise InputError if another run took it first."""
        try:
            (self.folder / "run.json").open("x").close()
        except FileExistsError:
            refuse_taken(self.folder)
        self._owned = True
        if not (hydra_config := self.folder / ".hydra" / "config.yaml").exists():  # a run started from Python
            hydra_config.parent.mkdir(exist_ok=True)
            OmegaConf.save(self.config, hydra_config)
        self._write_entries()

    @whole()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[True] | None:
        if not self._owned:
            return None
        if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns the first into the second
            self.status = "interrupted"
        elif isinstance(error, DivergedError):
            self.status = "diverged"
        else:
            self.status = "completed" if error is None else "failed"
        with contextlib.ExitStack() as last:  # what is done whatever fails before it, the status at the very end
            last.callback(self._write_entries)
            for file in self._files:
                last.callback(file.close)
            if self._pending:  # losses of the steps since the last read
                self._write_losses()
            if self._matrices:
                self._write_matrices()
            if self.status == "completed" and not self.config.trainer.keep_checkpoint:
                checkpoint_path(self.folder).unlink(missing_ok=True)
        log.info("%s: %s", self.status if self.status != "diverged" else f"diverged ({error})", self.folder)
        return True if self.status == "diverged" else None

    @whole()
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what is known before training and state the plan in one line."""
        assert isinstance(pl_module, Classifier)
        data, device = trainer.datamodule, trainer.strategy.root_device  # type: ignore[attr-defined]
        self._class_names: Sequence[str] = data.class_names
        self._steps_per_epoch: int = data.steps_per_epoch
        self._entries |= {
            "class_names": list(data.class_names),
            "steps_per_epoch": data.steps_per_epoch,
            "total_steps": self.probe.total_steps,
            "device": str(device),
            "precision": pl_module.compute.precision,
            "threads": torch.get_num_threads(),
            "deterministic": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        }
        self._write_entries()
        self._write_loss_curve(pl_module.losses)
        self._metrics = self._table("metrics.csv", METRICS_HEADER)
        self._train = self._table("train.csv", TRAIN_HEADER)
        self._tensorboard = SummaryWriter(str(self.folder))
        self._files.append(self._tensorboard)
        self._tensorboard.add_custom_scalars(self._charts())
        log.info(
            "plan: %s probes of %s images, %s steps",
            f"{len(self.probe.steps):,}",
            f"{self.probe.images_per_probe:,}",
            f"{self.probe.total_steps:,}",
        )

    @whole()
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the initial probe."""
        self._record_probe()
        self._write_matrices()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first batches."""
        self._clock = self._training_seconds()

    @whole()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of a step, and record losses and probe when there is a probe or enough of them."""
        step = trainer.global_step
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._pending.append((step, outputs["loss"].detach(), rate, len(batch[1])))
        probed = self.probe.results[0].step == step
        if probed or len(self._pending) >= STEPS_BETWEEN_READS:
            written, loss = self._write_losses()
            if not math.isfinite(loss):
                raise DivergedError(f"loss {loss} at step {written}")
            if probed:
                self._record_probe()
            dominance = self.probe.results[0].statistics.dominance
            pl_module.log_dict({"loss": loss, "dominance": dominance}, prog_bar=True, logger=False)
            self._clock = self._training_seconds()

    @whole()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the matrices and a checkpoint."""
        self._write_matrices()
        path = checkpoint_path(self.folder)
        path.parent.mkdir(exist_ok=True)
        trainer.save_checkpoint(partial := path.with_suffix(".partial"))
        partial.replace(path)
        if not trainer.progress_bar_callback:
            log.info("epoch %d of %d: dominance %.2f", *self._epoch_line(trainer))

    def _epoch_line(self, trainer: pl.Trainer) -> tuple[int, int, float]:
        epochs = math.ceil(self.probe.total_steps / self._steps_per_epoch)
        return trainer.current_epoch + 1, epochs, self.probe.results[0].statistics.dominance

    def _training_seconds(self) -> float:
        """A clock that stands still while the probe measures."""
        return time.perf_counter() - self.probe.seconds

    def _write_losses(self) -> tuple[int, float]:
        """Write the pending losses up to the first that is not finite; return the step and loss written last."""
        seconds = self._training_seconds() - self._clock
        speed = sum(images for *_, images in self._pending) / seconds
        losses = torch.stack([loss for _, loss, _, _ in self._pending]).tolist()
        for (step, _, rate, _), loss in zip(self._pending, losses, strict=True):
            self._train.writerow((step, step / self._steps_per_epoch, loss, rate, round(speed, 1)))
            self._tensorboard.add_scalar("train/loss", loss, step)
            if not math.isfinite(loss):
                break
        self._pending.clear()
        self._flush()
        return step, loss

    def _record_probe(self) -> None:
        for result in self.probe.results:
            columns = {name: getattr(result.statistics, name).tolist() for name in ("count", *METRICS)}
            epoch = result.step / self._steps_per_epoch
            for k, name in enumerate(self._class_names):
                values = [column[k] for column in columns.values()]
                self._metrics.writerow((result.step, epoch, result.batch_norm, k, name, int(values[0]), *values[1:]))
                for metric in METRICS:
                    self._tensorboard.add_scalar(
                        tag(result.batch_norm, metric, k, name), columns[metric][k], result.step
                    )
            self._tensorboard.add_scalar(f"dominance/{result.batch_norm}", result.statistics.dominance, result.step)
        self._matrices += self.probe.results
        self._flush()

    def _flush(self) -> None:
        for file in self._files:
            file.flush()

    def _table(self, name: str, header: Sequence[str]) -> Any:
        file = open(self.folder / name, "w", newline="", buffering=1 << 20)  # noqa: SIM115  (flushed per probe, closed at exit)
        self._files.append(file)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        file.flush()
        return writer

    def _charts(self) -> dict[str, dict[str, list[Any]]]:
        """One chart a quantity, with all classes; TensorBoard takes tags as regular expressions that match a prefix."""
        return {
            mode: {
                metric: [
                    "Multiline",
                    [f"^{re.escape(tag(mode, metric, k, name))}$" for k, name in enumerate(self._class_names)],
                ]
                for metric in METRICS
            }
            for mode in self.probe.modes
        }

    def _write_loss_curve(self, losses: LossSchedule) -> None:
        probabilities = torch.logspace(-6, 0, 601, dtype=torch.float64)
        with open(self.folder / "loss_curve.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LOSS_CURVE_HEADER)
            for epoch, loss in losses.phases():
                if not isinstance(loss, TrueClassLoss):  # no function of p_y alone
                    continue
                values, gradients = loss_curve(loss, probabilities)
                for row in zip(probabilities.tolist(), values.tolist(), gradients.tolist(), strict=True):
                    writer.writerow((epoch, str(loss), *row))

    def _write_matrices(self) -> None:
        partial = self.folder / "matrices.npz.partial"
        with open(partial, "wb") as stream:
            np.savez(
                stream,
                step=np.array([result.step for result in self._matrices]),
                batch_norm=np.array([result.batch_norm for result in self._matrices]),
                probability=torch.stack([result.statistics.probability_matrix for result in self._matrices]).numpy(),
                prediction=torch.stack([result.statistics.prediction_matrix for result in self._matrices]).numpy(),
            )
        partial.replace(self.folder / "matrices.npz")

    def _write_entries(self) -> None:
        entries = {
            "status": self.status,
            **self._entries,
            "wall_seconds": round(time.perf_counter() - self._started, 3),
            "peak_memory_bytes": peak_memory(),
        }
        partial = self.folder / "run.json.partial"
        partial.write_text(json.dumps(entries, indent=2) + "\n")
        partial.replace(self.folder / "run.json")


def refuse_taken(folder: Path) -> None:
    """Raise InputError if `folder` holds a run."""
    if (folder / "run.json").exists():
        raise InputError(f"the output folder {folder} already holds a run; give another, or remove it")


def tag(batch_norm: str, metric: str, k: int, class_name: str) -> str:
    """The TensorBoard tag of a quantity of class k."""
    return f"{metric}/{batch_norm}/{k} {class_name}"


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on besides its config."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    hardware = {"machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "hardware": hardware}


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; in a sweep the jobs before are counted in."""
    with contextlib.suppress(OSError, KeyError):  # Linux; the other source counts in the process that started this one
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
