"""The probe: when to measure the network during training, on which images, and the callback that does it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from igb import _checks, statistics
from igb._checks import InputError
from igb.compute import CALIBRATION
from igb.data import ImageData
from igb.statistics import ClassStatistics
from igb.training.classifier import Classifier

FIRST_BATCHES = 10  # measured one by one by every schedule
LOG_POINTS = 40  # of `probe=log`


@dataclass(frozen=True)
class ProbeResult:
    """What one probe saw, in one batch-norm mode, after `step` optimizer steps."""

    step: int
    batch_norm: str
    statistics: ClassStatistics


class Probe(pl.Callback):
    """Measures a classifier at initialisation, during epoch one, at the end of every epoch, and after the last step.

    Training goes on exactly as if it had not: no weight, running statistic, optimizer or random state, or mode changes.

    Args:
        points: log-spaced batches of epoch one to measure after, its first ten and its last among them; at least 11.
            None: every batch.
        images: size of a fixed subset of the test images, drawn class by class in proportion. None: all.
        batch_norm: `running` (evaluation mode), `batch` (statistics of each chunk), or `both`.
        chunk: images in a forward pass. In `batch` mode it is part of the measurement.
    """

    def __init__(
        self, points: int | None = None, images: int | None = None, batch_norm: str = "running", chunk: int = 500
    ) -> None:
        self.points = None if points is None else _checks.integer("points", points, at_least=FIRST_BATCHES + 1)
        self.images = None if images is None else _checks.integer("images", images, at_least=1)
        _checks.choice("batch_norm", batch_norm, (*statistics.BATCH_NORM_MODES, "both"))
        self.modes = statistics.BATCH_NORM_MODES if batch_norm == "both" else (batch_norm,)
        for mode in self.modes:
            statistics.check_chunk(chunk, mode)
        self.chunk = chunk
        self.seconds = 0.0  # spent measuring and recording so far
        self.dominance: float | None = None  # at the last probe
        self.first_step = 0  # steps done before this process
        self.record: Callable[[Sequence[ProbeResult]], None] = lambda results: (
            None
        )  # takes those of a probe, one a mode
        self.check: Callable[[], None] = lambda: None  # called between chunks; may raise to stop

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Fix the images and the steps of this run."""
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        with _checks.within("probe"):
            order = probe_order(data.test_labels, self.images)
        self._images, self._labels = data.test_images[order], data.test_labels[order]
        self.steps_per_epoch = data.steps_per_epoch
        self.total_steps = trainer.max_epochs * data.steps_per_epoch  # type: ignore[operator]
        if trainer.max_steps >= 0:
            self.total_steps = min(self.total_steps, trainer.max_steps)
        self.steps = frozenset(probe_steps(data.steps_per_epoch, self.total_steps, self.points))

    @property
    def images_per_probe(self) -> int:
        """Forward passes that one probe takes, in images."""
        return len(self._labels) * len(self.modes)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the network before its first step; the only hook that runs also when there are no steps."""
        self._images, self._labels = self._images.to(pl_module.device), self._labels.to(pl_module.device)
        if self.first_step in self.steps:
            self._measure(trainer, pl_module, self.first_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure after the step if it is on the schedule."""
        if trainer.global_step in self.steps:
            self._measure(trainer, pl_module, trainer.global_step)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        assert isinstance(pl_module, Classifier)
        if pl_module.device.type == "cuda":  # which may still be at the step before
            torch.cuda.synchronize(pl_module.device)
        started = time.perf_counter()
        several = trainer.world_size > 1
        if several:  # a batch norm that saw a share alone gives way to that of the first process, as in the next step
            for buffer in pl_module.network.buffers():
                dist.broadcast(buffer, 0)
        scale = trainer.datamodule.scale  # type: ignore[attr-defined]

        def transform(images: Tensor) -> Tensor:
            self.check()
            scaled: Tensor = scale(images)
            return scaled

        folded = None
        if "running" in self.modes:
            folded = pl_module.compute.fold(pl_module.network, scale(self._images[:CALIBRATION]))
        # The loss that the next step would use; after the last step, the loss of that step.
        epoch = min(step, max(self.total_steps - 1, 0)) // self.steps_per_epoch
        results = [
            ProbeResult(
                step,
                mode,
                statistics.measure(
                    folded if folded and mode == "running" else pl_module,
                    self._images,
                    self._labels,
                    loss=pl_module.losses.at(epoch),
                    batch_norm=mode,
                    chunk=self.chunk,
                    transform=transform,
                    distributed=several,
                ),
            )
            for mode in self.modes
        ]
        given, classes = len(results[0].statistics.count), len(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        if given != classes:
            raise InputError(
                f"model gives {given} logits, but the data have {classes} classes; it must heed num_classes"
            )
        self.record(results)
        self.dominance = results[0].statistics.dominance
        self.seconds += time.perf_counter() - started


def probe_steps(steps_per_epoch: int, total_steps: int, points: int | None) -> list[int]:
    """The numbers of optimizer steps after which to measure, ascending from 0 (initialisation) to `total_steps`.

    In epoch one every step, or `points` log-spaced ones: the first ten, then each a constant factor after the one
    before, as far as whole steps allow, to the last. After it the end of every epoch.
    """
    steps = list(range(min(FIRST_BATCHES, steps_per_epoch) + 1))
    if points is None:
        steps = list(range(steps_per_epoch + 1))
    while steps[-1] < steps_per_epoch:
        # `points` at least 11 leaves one for the last step; where fewer steps remain than points, all are taken.
        remaining = max(points - len(steps) + 1, 1) if points is not None else 1
        factor = (steps_per_epoch / steps[-1]) ** (1 / remaining)
        steps.append(max(steps[-1] + 1, round(steps[-1] * factor)))
    steps += range(2 * steps_per_epoch, total_steps + 1, steps_per_epoch)
    return [step for step in steps if step < total_steps] + [total_steps]


def probe_order(labels: Tensor, count: int | None) -> Tensor:
    """Indices of the images to measure, in one shuffled order that is the same for every seed and run.

    Labels are int64 [N]. With `count` the subset has every class in proportion: an image's place among those of its
    class, as a fraction of the class, decides whether it is in. Raises InputError if `count` is more than N or
    less than the number of classes.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if count is None:
        return order
    classes = labels.unique()
    if not len(classes) <= count <= len(labels):
        raise InputError(f"images={count} must lie from {len(classes)}, one a class, to {len(labels)}, all there are")
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in classes:
        members = (labels[order] == label).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
        place[members[0]] = 0  # one of each class is in
    chosen = place.argsort(stable=True)[:count]
    return order[chosen.sort().values]
