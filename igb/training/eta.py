"""How long a run will take, from what its steps and probes took so far."""

import bisect
import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from igb.training.probe import FIRST_BATCHES, LOG_POINTS, Probe, probe_steps
from igb.training.step_losses import Steps

log = logging.getLogger(__name__)


class Pace(pl.Callback):
    """Times steps and probes as they happen, and after the first ten steps says how long the rest will take.

    It stands behind the probe in the trainer's list. Recording counts as part of a step; the first step, in which
    libraries set themselves up, does not count.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.step_seconds = self.probe_seconds = 0.0  # of one each, on average
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._schedule = sorted(self.probe.steps)
        self._first = self._step = trainer.global_step
        self._probing = self.probe.seconds

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count a step, and the probe after it if there was one."""
        self._step = trainer.global_step
        training = time.perf_counter() - self.probe.seconds
        if self._step == self._first + 1:
            self._started = training
        else:
            self.step_seconds = (training - self._started) / (self._step - self._first - 1)
        if probes := self._probes_until(self._step) - self._probes_until(self._first):
            self.probe_seconds = (self.probe.seconds - self._probing) / probes
        if self._step == self._first + FIRST_BATCHES < self.probe.total_steps:
            log.info("estimate: %s", self.estimate())

    def remaining(self) -> tuple[float, float]:
        """Seconds still to go for training and for probing."""
        probes = len(self._schedule) - self._probes_until(self._step)
        return (self.probe.total_steps - self._step) * self.step_seconds, probes * self.probe_seconds

    def estimate(self) -> str:
        """What is to go, in words, and what `probe=log` would take where probing takes longer than training."""
        training, probing = self.remaining()
        if not self.probe_seconds:  # a run that goes on, between probes
            return f"{duration(training)} to go without probing, which was not timed yet"
        text = f"{duration(training + probing)} to go, {duration(probing)} of it for probing"
        if probing > training and self.probe.points is None:
            steps, per_epoch = self.probe.total_steps, self.probe.steps_per_epoch
            probes = len(probe_steps(per_epoch, steps, LOG_POINTS))
            instead = duration(steps * self.step_seconds + probes * self.probe_seconds)
            text += f"; the whole run with probe=log: {instead}"
        return text

    def _probes_until(self, step: int) -> int:
        return bisect.bisect_right(self._schedule, step)


class ProgressBar(TQDMProgressBar):
    """Lightning's, with the time to go from `Pace`: steps with and without a probe differ too much for an average.

    Loss and dominance are those last read: what Lightning logs it would fetch from the device at every batch.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

    def __init__(self, pace: Pace, steps: Steps) -> None:
        super().__init__()
        self._pace, self._steps = pace, steps

    def on_train_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Make the bar, and give it an epoch at once: Lightning does not for one that goes on in its middle."""
        super().on_train_start(trainer, *arguments)
        self.on_train_epoch_start(trainer)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        at_least = "" if self._pace.probe_seconds else "over "  # a probe was not timed yet
        read = {"loss": self._steps.loss, "dominance": self._pace.probe.dominance}
        known = {name: f"{value:.3g}" for name, value in read.items() if value is not None}
        return {"to go": at_least + duration(sum(self._pace.remaining())), **known}


def duration(seconds: float) -> str:
    """Seconds in the units that a reader would choose: `8 s`, `14 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
