"""The steps of a run, and after which of them it is probed."""

import bisect
import functools
from dataclasses import dataclass

FIRST_BATCHES = 10  # measured one by one by every schedule
LOG_POINTS = 40  # of `probe=log`


@dataclass(frozen=True)
class Schedule:
    """The steps of a run and of its probes, which all its callbacks share.

    Attributes:
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: the number of steps after which the run ends.
        probe_steps: the numbers of optimizer steps after which to measure, ascending.

    >>> Schedule.of(steps_per_epoch=20, max_epochs=3, max_steps=50, points=12).probe_steps
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 20, 40, 50)
    """

    steps_per_epoch: int
    total_steps: int
    probe_steps: tuple[int, ...]

    @classmethod
    def of(cls, steps_per_epoch: int, max_epochs: int, max_steps: int | None, points: int | None) -> "Schedule":
        """The schedule of a run with these limits, and with `points` probes in epoch one; None: after every batch."""
        total = max_epochs * steps_per_epoch
        total = total if max_steps is None else min(total, max_steps)
        return cls(steps_per_epoch, total, tuple(probe_steps(steps_per_epoch, total, points)))

    @property
    def epochs(self) -> int:
        """Epochs that the run begins."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch(self, step: int) -> float:
        """Convert a step count to (fractional) epochs."""
        return step / self.steps_per_epoch

    def next_epoch(self, step: int) -> int:
        """The epoch, counted from 0, of the step that comes after `step`; after the last step, that of the last."""
        return min(step, max(self.total_steps - 1, 0)) // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch or the run ends with a step."""
        return step == self.total_steps or step % self.steps_per_epoch == 0

    def is_probed(self, step: int) -> bool:
        """Whether to measure after a step."""
        return step in self._probed

    def probes_until(self, step: int) -> int:
        """The number of probes up to and including `step`."""
        return bisect.bisect_right(self.probe_steps, step)

    @functools.cached_property
    def _probed(self) -> frozenset[int]:
        return frozenset(self.probe_steps)


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
