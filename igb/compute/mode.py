"""The `compute` config group: the precision and the number of threads for training and measuring a network."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import ResNet

from igb import _checks
from igb.compute.cpu import products
from igb.compute.cpu.batch_norm import batch_norm
from igb.compute.folding import fold

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALL_THREADS = torch.get_num_threads()  # torch's own choice, read before a job of a sweep changes it

log = logging.getLogger(__name__)


class Compute:
    """How the arithmetic of a run is done; the mathematics and the weights are the same in every mode.

    Args:
        precision: `float32` (the config `exact`), or `bfloat16` (`fast`) for convolutions and the maps between them,
            with float32 weights, batch statistics, fully connected layers of features [N, K], and loss.
        threads: CPU threads for torch; None for its own choice, in a run the available cores divided by the devices.
    """

    def __init__(self, precision: str = "float32", threads: int | None = None) -> None:
        self.precision = _checks.choice("precision", precision, PRECISIONS)
        self.threads = None if threads is None else _checks.integer("threads", threads, at_least=1)

    def on(self, device: torch.device, threads: int) -> "Compute":
        """The same for a device and a number of threads; float32, with a warning, if the device lacks bfloat16."""
        precision = self.precision
        if precision == "bfloat16" and not has_bfloat16(device):
            log.warning("compute=fast needs AVX-512 BF16, AMX or a CUDA card with bfloat16; this run is compute=exact")
            precision = "float32"
        return Compute(precision, threads)

    def set_up(self, device: torch.device) -> None:
        """Set up the process to compute on `device`; `restored_settings` undoes this."""
        torch.set_num_threads(self.threads or ALL_THREADS)
        exact = self.precision == "float32"
        torch.backends.cudnn.benchmark = not exact
        # CPU operations are deterministic anyway. cuBLAS reads the variable when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(exact and device.type == "cuda")

    @contextlib.contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Inside, torch's functions on `device` compute in this mode, and so do later gradients of their results.

        On CUDA `exact` is what torch does anyway, so none of its functions is intercepted.
        """
        dtype = PRECISIONS[self.precision]
        if dtype != torch.float32:
            with torch.autocast(device.type, dtype), _Rewrites(dtype):
                yield
        elif device.type == "cuda":
            yield
        else:
            with _Rewrites(dtype):
                yield

    def is_recorded(self, device: torch.device) -> bool:
        """Whether steps and probes on a device are recorded as CUDA graphs: those of `fast` on a card."""
        return self.precision != "float32" and device.type == "cuda"

    def fold(self, network: nn.Module, images: Tensor) -> nn.Module | None:
        """A copy of the network in evaluation mode with batch norm folded, or None; see `compute.fold`."""
        return fold(network, PRECISIONS[self.precision], images)


def channels_last(network: nn.Module) -> nn.Module:
    """Put torchvision's ResNet in channels-last layout; leave others, whose code may rely on theirs."""
    return network.to(memory_format=torch.channels_last) if type(network) is ResNet else network


class _Rewrites(TorchFunctionMode):
    """Replaces the torch functions that igb computes in its own way, whichever network calls them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if function is F.conv2d:
            function = self._convolve
        elif function is F.batch_norm and self.dtype == torch.float32:
            function = _batch_norm
        elif function is F.linear and self.dtype != torch.float32:
            function = _linear
        return function(*arguments, **(options or {}))

    def _convolve(
        self,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """`torch.nn.functional.conv2d`."""
        plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str) and images.ndim == 4
        # In another layout the products would need copies, and the network's code may rely on that layout.
        if plain and _is_channels_last(images):
            if self.dtype != torch.float32:
                images = images.to(self.dtype)
            window = products.window(tuple(images.shape[2:]), tuple(weight.shape[2:]), _pair(stride), _pair(padding))
            form = products.form(window, images.dtype, images.device)
            if form != "direct":
                maps = products.convolve(images, weight, window, form)
                maps = maps if bias is None else maps + bias.to(maps.dtype)[:, None, None]
                return maps.contiguous() if images.is_contiguous() else maps  # one pixel or one channel fits both
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)


def _batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`."""
    if training and maps.device.type == "cpu" and maps.ndim == 4 and not maps.is_contiguous():
        return batch_norm(maps, running_mean, running_var, weight, bias, momentum, eps)
    return F.batch_norm(maps, running_mean, running_var, weight, bias, training, momentum, eps)


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, in float32 for features [N, K]: a head's few products decide all probabilities."""
    if features.ndim != 2:
        return F.linear(features, weight, bias)
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.to(weight.dtype), weight, bias)


def _is_channels_last(images: Tensor) -> bool:
    try:
        return images.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # inside torch.func.vmap, which cannot tell
        return False


def _pair(value: Any) -> products.Pair:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware of a device multiplies bfloat16 numbers faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
