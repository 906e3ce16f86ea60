"""A probe is one per-class evaluation of the network on the test images (not a linear probe).

`Probe` holds its options, `ProbeCallback` runs it.

How a result reaches the disk: `ProbeCallback._measure` calls `igb.statistics.measure` once per view and passes the
results to `record`, which is `Records.record` in the first process and does nothing in the others. It writes them to
metrics.csv, TensorBoard and matrices.zarr at once. `igb.experiment.carry_out` wires this up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from igb import _checks, statistics
from igb._checks import InputError
from igb.compute import CALIBRATION
from igb.schedule import FIRST_BATCHES, Schedule
from igb.statistics import ClassStatistics
from igb.training.classifier import Classifier
from igb.training.stopwatch import Stopwatch


class View(NamedTuple):
    """What a probe looks at: the images of a split, normalised by `running` or `batch` statistics."""

    split: str
    batch_norm: str


@dataclass(frozen=True)
class ProbeResult:
    """The statistics of one probe in one view, after `step` optimizer steps."""

    step: int
    view: View
    statistics: ClassStatistics


class Probe:
    """What a probe measures, and how often in epoch one: the config group `probe`.

    Args:
        points: log-spaced batches of epoch one to measure after, its first ten and its last among them; at least 11.
            None: every batch.
        images: size of a fixed subset of the test images, drawn class by class in proportion. None: all.
        batch_norm: `running` (evaluation mode), `batch` (statistics of each chunk), or `both`.
        chunk: images per forward pass. In `batch` mode it is part of the measurement.
        matrices: whether to keep the two C x C matrices of every probe.
    """

    def __init__(
        self,
        points: int | None = None,
        images: int | None = None,
        batch_norm: str = "running",
        chunk: int = 500,
        matrices: bool = True,
    ) -> None:
        self.points = None if points is None else _checks.integer("points", points, at_least=FIRST_BATCHES + 1)
        self.images = None if images is None else _checks.integer("images", images, at_least=1)
        _checks.choice("batch_norm", batch_norm, (*statistics.BATCH_NORM_MODES, "both"))
        modes = statistics.BATCH_NORM_MODES if batch_norm == "both" else (batch_norm,)
        self.views = tuple(View("test", mode) for mode in modes)
        for mode in modes:
            statistics.check_chunk(chunk, mode)
        self.chunk = chunk
        self.matrices = _checks.boolean("matrices", matrices)

    def order(self, labels: Tensor) -> Tensor:
        """The indices of the images to measure, of those with labels [N]; InputError if there are too few."""
        return probe_order(labels, self.images)


class ProbeCallback(pl.Callback):
    """Measures a classifier at initialisation, during epoch one, at the end of every epoch, and after the last step.

    It leaves training exactly as it was: no weight, running statistic, optimizer state, random state or mode changes.

    Args:
        probe: what to measure.
        images: uint8 [N, H, W], in the order they are measured in.
        labels: their classes, int64 [N].
        scale: turns the images into the network's input.
        num_classes: C, the number of logits the network must return.
        schedule: the run's step schedule, which says when to measure.
        stopwatch: the run's stopwatch, which counts the time of probes apart.
        record: called with the results of a probe, one per view.
        check: called between chunks; may raise to stop.
        first_step: steps done before this process.
    """

    def __init__(
        self,
        probe: Probe,
        images: Tensor,
        labels: Tensor,
        scale: Callable[[Tensor], Tensor],
        num_classes: int,
        schedule: Schedule,
        stopwatch: Stopwatch,
        record: Callable[[Sequence[ProbeResult]], None],
        check: Callable[[], None],
        first_step: int = 0,
    ) -> None:
        self.probe, self.scale, self.num_classes = probe, scale, num_classes
        self.schedule, self.stopwatch, self.record, self.check = schedule, stopwatch, record, check
        self.first_step = first_step
        self.dominance: float | None = None  # at the last probe
        self._images, self._labels = images, labels

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the network before its first step; the only hook that runs also when there are no steps."""
        self._images, self._labels = self._images.to(pl_module.device), self._labels.to(pl_module.device)
        if self.schedule.is_probed(self.first_step):
            self._measure(trainer, pl_module, self.first_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Measure after the step if it is on the schedule."""
        if self.schedule.is_probed(trainer.global_step):
            self._measure(trainer, pl_module, trainer.global_step)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        assert isinstance(pl_module, Classifier)
        if pl_module.device.type == "cuda":  # the step before may still be running there
            torch.cuda.synchronize(pl_module.device)
        with self.stopwatch.timed("probes"):
            results = self._results(pl_module, step, several=trainer.world_size > 1)
            self.record(results)
            self.dominance = results[0].statistics.dominance

    def _results(self, classifier: Classifier, step: int, several: bool) -> list[ProbeResult]:
        if several:  # each batch norm saw its shard alone; use that of the first process, as the next step will
            for buffer in classifier.network.buffers():
                dist.broadcast(buffer, 0)

        def transform(images: Tensor) -> Tensor:
            self.check()
            return self.scale(images)

        folded = None
        if any(view.batch_norm == "running" for view in self.probe.views):
            calibration = self._images[: min(CALIBRATION, self.probe.chunk)]
            folded = classifier.compute.fold(classifier.network, self.scale(calibration))
        # The loss that the next step would use; after the last step, the loss of that step.
        loss = classifier.losses.at(self.schedule.next_epoch(step))
        results = []
        for view in self.probe.views:
            stats = statistics.measure(
                folded if folded and view.batch_norm == "running" else classifier,
                self._images,
                self._labels,
                loss=loss,
                batch_norm=view.batch_norm,
                chunk=self.probe.chunk,
                transform=transform,
                distributed=several,
            )
            if len(stats.count) != self.num_classes:
                raise InputError(
                    f"model returns {len(stats.count)} logits, but the data have {self.num_classes} classes; "
                    "its constructor must use num_classes"
                )
            results.append(ProbeResult(step, view, stats))
        return results


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
        least, most = f"{len(classes)} (one per class)", f"{len(labels)} (all test images)"
        raise InputError(f"images={count} must be between {least} and {most}")
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in classes:
        members = (labels[order] == label).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
        place[members[0]] = 0  # one of each class is in
    chosen = place.argsort(stable=True)[:count]
    return order[chosen.sort().values]
