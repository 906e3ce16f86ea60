"""A probe is one per-class evaluation of the network on the test images (not a linear probe).

`Probe` holds its options, `ProbeCallback` runs it.

How a result reaches the disk: `ProbeCallback.measure` calls `igb.statistics.measure` once per view and passes the
results to `record`, which is `Records.record` in the first process and does nothing in the others. It writes them to
metrics.csv, TensorBoard and matrices.zarr at once. `igb.experiment.carry_out` wires this up.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from igb import _batches, _checks, statistics
from igb._checks import InputError
from igb.compute import CALIBRATION
from igb.compute.cuda.graphs import Graphed
from igb.schedule import FIRST_BATCHES, Schedule
from igb.statistics import ClassStatistics, ClassSums
from igb.training.classifier import Classifier
from igb.training.memorisation import Labelled, memorisation
from igb.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)


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

    def measure_once(self) -> None:
        """Leave out all but the first batch-norm mode, for a network without batch norm, where they are the same."""
        self.views = self.views[:1]

    def order(self, labels: Tensor) -> Tensor:
        """The indices of the images to measure, of those with labels [N]; InputError if there are too few."""
        return probe_order(labels, self.images)


class ProbeCallback(pl.Callback):
    """Measures a classifier at initialisation, during epoch one, at the end of every epoch, and after the last step.

    It leaves training exactly as it was: no weight, running statistic, optimizer state, random state or mode changes.

    Args:
        probe: what to measure.
        images: uint8 [N, C, H, W], in the order they are measured in.
        labels: their classes, int64 [N].
        scale: turns the images into the network's input.
        num_classes: C, the number of logits the network must return.
        schedule: the run's step schedule, which says when to measure.
        stopwatch: the run's stopwatch, which counts the time of probes apart.
        record: called with the results of a probe, one per view.
        check: called between chunks; may raise to stop.
        first_step: steps done before this process.
        labelled: training images whose given labels are in part wrong, to measure after each probe.
        record_labelled: called with the step, the view and the `memorisation` of these images.
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
        labelled: Labelled | None = None,
        record_labelled: Callable[[int, View, Tensor], None] | None = None,
    ) -> None:
        self.labelled, self.record_labelled = labelled, record_labelled
        self.probe, self.scale, self.num_classes = probe, scale, num_classes
        self.schedule, self.stopwatch, self.record, self.check = schedule, stopwatch, record, check
        self.first_step = first_step
        self.dominance: float | None = None  # at the last probe
        self._images, self._labels, self._chunk = images, labels, probe.chunk
        self._graphed: dict[View, Graphed] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the network before its first step; the only hook that runs also when there are no steps."""
        self._images, self._labels = self._images.to(pl_module.device), self._labels.to(pl_module.device)
        self.labelled = self.labelled and self.labelled.to(pl_module.device)
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
            results = self.measure(pl_module, step, several=trainer.world_size > 1)
            self.record(results)
            if self.labelled is not None and self.record_labelled is not None:
                for view in self.probe.views:
                    network, several = self._network(pl_module, view), trainer.world_size > 1
                    scale, mode = self._checked_and_scaled, view.batch_norm
                    found = memorisation(
                        network, self.labelled, self.num_classes, scale, self._chunk, mode, distributed=several
                    )
                    self.record_labelled(step, view, found)
            self.dominance = results[0].statistics.dominance

    def measure(self, classifier: Classifier, step: int, several: bool = False) -> list[ProbeResult]:
        """The statistics of a classifier in every view, with the loss that the step after `step` would use.

        After the last step it is the loss of that step. `several` processes share the images.
        """
        if several:  # each batch norm saw its shard alone; use that of the first process, as the next step will
            for buffer in classifier.network.buffers():
                dist.broadcast(buffer, 0)
        loss = classifier.losses.at(self.schedule.next_epoch(step))
        # The first probe is measured call by call, with all its checks.
        is_recorded = self.dominance is not None and not several and classifier.compute.is_recorded(classifier.device)
        results = []
        for view in self.probe.views:
            while True:
                try:
                    if is_recorded:
                        stats = self._replayed(classifier, view, loss)
                    else:
                        stats = self._measured(classifier, view, loss, several)
                    break
                except torch.OutOfMemoryError as error:
                    self._halve_chunk(classifier.device, view, several, error)
            results.append(ProbeResult(step, view, stats))
        return results

    def _measured(self, classifier: Classifier, view: View, loss: nn.Module, several: bool) -> ClassStatistics:
        stats = statistics.measure(
            self._network(classifier, view),
            self._images,
            self._labels,
            loss=loss,
            batch_norm=view.batch_norm,
            chunk=self._chunk,
            transform=self._checked_and_scaled,
            distributed=several,
        )
        if len(stats.count) != self.num_classes:
            raise InputError(
                f"model returns {len(stats.count)} logits, but the data have {self.num_classes} classes; "
                "its constructor must use num_classes"
            )
        return stats

    def _replayed(self, classifier: Classifier, view: View, loss: nn.Module) -> ClassStatistics:
        """The same as one CUDA graph, from the folding to the sums."""
        self._loss = loss
        if view not in self._graphed:
            self._graphed[view] = Graphed(functools.partial(self._total, classifier, view), "the probe")
        with statistics.undisturbed(classifier, classifier.device, view.batch_norm):
            return ClassSums.means(self._graphed[view](key=(loss, self._chunk)))

    def _total(self, classifier: Classifier, view: View) -> Tensor:
        """The sums over all images."""
        network, sums = self._network(classifier, view), ClassSums(self.num_classes, classifier.device)
        chunks = (_batches.split(tensor, self._chunk) for tensor in (self._images, self._labels))
        for images, labels in zip(*chunks, strict=True):
            sums.update(network(self._checked_and_scaled(images)), labels, self._loss)
        return sums.total

    def _network(self, classifier: Classifier, view: View) -> nn.Module:
        """What is measured: the network, in evaluation mode folded where that can be."""
        if view.batch_norm != "running":
            return classifier
        images = self._images[: min(CALIBRATION, self.probe.chunk)]
        return classifier.compute.fold(classifier.network, self.scale(images)) or classifier

    def _checked_and_scaled(self, images: Tensor) -> Tensor:
        self.check()
        return self.scale(images)

    def _halve_chunk(self, device: torch.device, view: View, several: bool, error: Exception) -> None:
        """Measure with smaller chunks from now on, where that changes nothing; else raise InputError."""
        if view.batch_norm == "batch" or several or self._chunk == 1:
            raise InputError(f"probe.chunk={self._chunk} does not fit the memory of {device}; lower it") from error
        self._chunk //= 2
        log.info("a probe does not fit the memory of %s; going on with probe.chunk=%d", device, self._chunk)
        if device.type == "cuda":
            torch.cuda.empty_cache()


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
