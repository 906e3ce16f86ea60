"""Stopping between two steps on Ctrl-C, or on the signals that schedulers send before they kill."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name)]


class StoppedError(BaseException):
    """The run was told to stop. Derives from BaseException, so that no library catches it with `except Exception`.

    Args:
        number: the number of the signal.
        between_steps: whether the network is as the last step left it, so that a checkpoint can be written.
    """

    status = "interrupted"

    def __init__(self, number: int, between_steps: bool) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.between_steps = number, between_steps


class Stop:
    """Handles the signals while it is entered: a first one stops the run at the next `check`, a second at once.

    Outside `deferred` every signal stops at once: there is no step to finish.
    """

    def __init__(self) -> None:
        self._requested: int | None = None
        self._deferring = False
        self._group: Any = None  # of the processes that stop together
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # which alone may
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # A shell makes its background jobs ignore Ctrl-C; that stays so.
            self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
            self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def listen(self) -> None:
        """Install the handlers, again if Lightning replaced them: its own would act within the handler."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal waits for `check`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def synchronise(self) -> None:
        """From here on stop with the other processes of `torch.distributed`, which all call this and `check`."""
        import torch.distributed as dist

        self._group = dist.new_group(backend="gloo")  # on which no process waits for its GPU

    def all_reduce_max(self, value: int) -> int:
        """The largest value that the processes which stop together give; all of them call this."""
        if self._group is None:
            return value
        import torch
        import torch.distributed as dist

        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._group)
        return int(largest)

    def check(self) -> None:
        """Raise StoppedError if the run is to stop; called only where the network is as its last step left it."""
        if number := self.all_reduce_max(self._requested or 0):
            raise StoppedError(number, between_steps=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._requested is not None
        self._requested = number
        if again or not self._deferring:
            raise StoppedError(number, between_steps=False)
