"""What the time of a run goes to: training, probes, checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


class Stopwatch:
    """Seconds that went to probes and to checkpoints; all else is training."""

    def __init__(self) -> None:
        self.probes = self.checkpoints = 0.0

    def outside_probes(self) -> float:
        """A clock that stands still while a probe measures."""
        return time.perf_counter() - self.probes

    def training(self) -> float:
        """A clock that stands still while a probe measures or a checkpoint is written."""
        return self.outside_probes() - self.checkpoints

    @contextmanager
    def timed(self, part: Literal["probes", "checkpoints"]) -> Iterator[None]:
        """Count the time inside as that of a probe or a checkpoint."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - started)
