"""CUDA graphs: work on a card that is recorded once and then replayed.

A step of ResNet-50 is some 900 calls of torch, each of which launches kernels from Python. A replay launches all at
once.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from igb._checks import one_line

WARM_UP = 3  # calls before recording, in which libraries choose their algorithms and optimizers make their state

log = logging.getLogger(__name__)


class Recording:
    """What a function launches on the current device; recording alone carries nothing out.

    Args:
        work: the function, which must not wait for the device. Its result is overwritten by each replay.
        stream: the CUDA stream to record on.
    """

    def __init__(self, work: Callable[[], Tensor], stream: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._result = work()

    def replay(self) -> Tensor:
        """Carry it all out once more."""
        self._graph.replay()
        return self._result


class Graphed:
    """A function of tensors that is called at first, and from the fourth call on replayed.

    What it does may depend on nothing but the tensors it is given, tensors it holds, and `key`. If it cannot be
    recorded, as a network that waits for the device, it is called as before, and the log says so once.

    Args:
        function: maps tensors on the card to a tensor.
        name: what the log calls it.
    """

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        self._function, self._name = function, name
        self._key: Any = None
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._recording: Recording | None = None
        self._cannot = False
        self._stream: Any = None

    def __call__(self, *inputs: Tensor, key: object = None) -> Tensor:
        """Call the function; inputs of other shapes than those recorded, as of an odd last batch, are not replayed.

        With another `key` than before it is recorded anew.
        """
        if key != self._key:
            self._key, self._calls, self._recording = key, 0, None
        if self._recording is None and self._calls >= WARM_UP and not self._cannot:
            self._inputs = [given.clone() for given in inputs]
            try:
                self._recording = Recording(lambda: self._function(*self._inputs), self._stream)
            except RuntimeError as error:
                self._cannot = True
                log.warning("%s cannot be recorded as a CUDA graph and will be slower: %s", self._name, one_line(error))
        if self._recording is None or any(
            given.shape != held.shape for given, held in zip(inputs, self._inputs, strict=True)
        ):
            self._calls += 1
            return self._called(inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        return self._recording.replay().clone()

    def _called(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The result of a call on the stream that is recorded, as torch asks for of calls before a recording."""
        if not torch.cuda.is_initialized():  # a test on the CPU
            return self._function(*inputs)
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result
