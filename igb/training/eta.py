"""How long a run will take, from what its steps and probes took so far."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from igb.schedule import FIRST_BATCHES, LOG_POINTS, Schedule, probe_steps
from igb.training.probe import ProbeCallback
from igb.training.step_losses import StepLosses
from igb.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class Eta(pl.Callback):
    """Times steps and probes, and after ten steps logs how long the rest will take.

    It comes after the probe in the trainer's list. Recording counts as part of a step. The first step does not count:
    libraries set themselves up in it.

    Args:
        schedule: the run's step schedule.
        stopwatch: the run's stopwatch.
        probing: the run's probe callback, whose dominance is logged at the end of an epoch.
        every_batch: whether the probe comes after every batch of epoch one.
    """

    def __init__(self, schedule: Schedule, stopwatch: Stopwatch, probing: ProbeCallback, every_batch: bool) -> None:
        self.schedule, self.stopwatch, self.probing, self.every_batch = schedule, stopwatch, probing, every_batch
        self.step_seconds = self.probe_seconds = 0.0  # of one each, on average
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._first = self._step = trainer.global_step
        self._probe_seconds_before = self.stopwatch.probes

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count a step, and the probe after it if there was one."""
        self._step = trainer.global_step
        training = self.stopwatch.outside_probes()
        if self._step == self._first + 1:
            self._started = training
        else:
            self.step_seconds = (training - self._started) / (self._step - self._first - 1)
        if probes := self.schedule.probes_until(self._step) - self.schedule.probes_until(self._first):
            self.probe_seconds = (self.stopwatch.probes - self._probe_seconds_before) / probes
        if self._step == self._first + FIRST_BATCHES < self.schedule.total_steps:
            log.info("estimated time left: %s", self.estimate())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch and the dominance, unless a progress bar shows them."""
        if not trainer.progress_bar_callback:
            epochs, dominance = self.schedule.epochs, self.probing.dominance
            log.info("epoch %d of %d: dominance %.2f", trainer.current_epoch + 1, epochs, dominance)

    def remaining(self) -> tuple[float, float]:
        """Seconds left for training and for probes."""
        probes = len(self.schedule.probe_steps) - self.schedule.probes_until(self._step)
        return (self.schedule.total_steps - self._step) * self.step_seconds, probes * self.probe_seconds

    def estimate(self) -> str:
        """The time left, in words; also that of `probe=log` where probes take longer than training."""
        training, probing = self.remaining()
        if not self.probe_seconds:  # a run that resumes between probes
            return f"{duration(training)} for training; probes not timed yet"
        text = f"{duration(training + probing)} ({duration(probing)} of it for probes)"
        if probing > training and self.every_batch:
            steps, per_epoch = self.schedule.total_steps, self.schedule.steps_per_epoch
            probes = len(probe_steps(per_epoch, steps, LOG_POINTS))
            instead = duration(steps * self.step_seconds + probes * self.probe_seconds)
            text += f"; the whole run with probe=log: {instead}"
        return text


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the time to go from `Eta`: steps with and without a probe differ too much for an average.

    It shows the loss and dominance that were read last. What Lightning logs it would fetch from the device every batch.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

    def __init__(self, eta: Eta, step_losses: StepLosses) -> None:
        super().__init__()
        self._eta, self._step_losses = eta, step_losses

    def on_train_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Make the bar and start its epoch at once: Lightning does not when a run resumes within one."""
        super().on_train_start(trainer, *arguments)
        self.on_train_epoch_start(trainer)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The text behind the bar."""
        at_least = "" if self._eta.probe_seconds else "over "  # a probe was not timed yet
        read = {"loss": self._step_losses.last, "dominance": self._eta.probing.dominance}
        known = {name: f"{value:.3g}" for name, value in read.items() if value is not None}
        return {"to go": at_least + duration(sum(self._eta.remaining())), **known}


def duration(seconds: float) -> str:
    """Seconds in the units that a reader would choose: `8 s`, `14 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
