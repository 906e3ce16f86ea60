"""The losses of the training steps: read from the device in blocks, averaged over processes, checked to be finite."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from igb.data import Batch
from igb.schedule import Schedule
from igb.training.stopwatch import Stopwatch

STEPS_BETWEEN_READS = 50  # a loss stays on the device until then, so that training need not wait for it


class DivergedError(RuntimeError):
    """The training loss is no longer finite; the run ends as a result like any other."""

    status = "diverged"


class StepLoss(NamedTuple):
    """A step: its number, loss and learning rate, and the speed of training around it."""

    number: int
    loss: float
    rate: float
    images_per_second: float


class StepLosses(pl.Callback):
    """Keeps the loss of every step on the device, and reads it before a probe or when there are enough to read.

    It comes before the probe in the trainer's list.

    Args:
        schedule: the run's step schedule.
        stopwatch: the run's stopwatch.
        record: called with the losses that were read.
    """

    def __init__(self, schedule: Schedule, stopwatch: Stopwatch, record: Callable[[Sequence[StepLoss]], None]) -> None:
        self.schedule, self.stopwatch, self.record = schedule, stopwatch, record
        self.last: float | None = None  # that was read
        self._pending: list[tuple[int, Tensor, float, int]] = []  # number, loss, learning rate, images

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._read_at = self.stopwatch.training()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the loss of a step; read all kept ones before a probe, or when there are enough."""
        step, rate = trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]
        self._pending.append((step, outputs["loss"], rate, batch.size))  # Lightning wraps what training_step returns
        if self.schedule.is_probed(step) or len(self._pending) >= STEPS_BETWEEN_READS:
            self.read(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Read the remaining losses, unless that needs another process, which may be the one that failed."""
        if trainer.world_size == 1:
            with contextlib.suppress(DivergedError):
                self.read(trainer)

    def read(self, trainer: pl.Trainer) -> None:
        """Record the steps since the last read; raise DivergedError if a loss is not finite."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        speed = sum(images for *_, images in pending) / (self.stopwatch.training() - self._read_at)
        losses = torch.stack([loss for _, loss, _, _ in pending])
        if trainer.world_size > 1:  # the mean of the weighted losses of all shards is the batch's
            losses = trainer.strategy.reduce(losses.double(), reduce_op="mean")
        steps = [
            StepLoss(number, loss, rate, speed)
            for (number, _, rate, _), loss in zip(pending, losses.tolist(), strict=True)
        ]
        infinite = next((k for k, step in enumerate(steps) if not math.isfinite(step.loss)), None)
        self.record(steps if infinite is None else steps[: infinite + 1])
        if infinite is not None:
            raise DivergedError(f"loss {steps[infinite].loss} at step {steps[infinite].number}")
        self.last = steps[-1].loss
        self._read_at = self.stopwatch.training()
