"""What the time of a run goes to: training, probes, checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
    def probe(self) -> Iterator[None]:
        """Count the time inside as that of a probe."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.probes += time.perf_counter() - started

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Count the time inside as that of a checkpoint."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.checkpoints += time.perf_counter() - started
