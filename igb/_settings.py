"""Process-wide settings that arithmetic depends on: set by a run or a measurement, and restored after it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from igb._environment import GROUP, RANKS

HAS_NEWER_NAMES = hasattr(torch.backends, "fp32_precision")  # beside `allow_tf32`, from torch 2.9 on


@contextmanager
def restored_settings() -> Iterator[None]:
    """Restore on exit the settings that a run changes for the whole process.

    These are threads, deterministic algorithms, TensorFloat-32, cuDNN's benchmarking, how this thread treats denormals,
    and the environment variables that go with them.
    """
    names = ("CUBLAS_WORKSPACE_CONFIG", "PL_GLOBAL_SEED", "PL_SEED_WORKERS", *GROUP, *RANKS)
    variables = {name: os.environ.get(name) for name in names}
    threads, denormals = torch.get_num_threads(), _flushes_denormals()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with without_tf32():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(denormals)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, CUDA multiplies in full float32.

    TensorFloat-32 would round the factors of products to 10 bits, in all of `exact` and in the head of `fast`.
    """
    with ExitStack() as restored:
        _turn_off_tf32_of_products(restored)
        _turn_off_tf32_of_cudnn(restored)
        yield


def _turn_off_tf32_of_products(restored: ExitStack) -> None:
    """Set only what is not off, by the name by which it was set: torch raises once both names have been used."""
    matmul: Any = torch.backends.cuda.matmul
    if HAS_NEWER_NAMES and matmul.fp32_precision in ("none", "ieee"):  # also by what it inherits
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = "highest"
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
        restored.callback(torch.set_float32_matmul_precision, before)
    elif HAS_NEWER_NAMES:  # by one of which it was set
        _change(restored, matmul, "fp32_precision", "ieee")


def _turn_off_tf32_of_cudnn(restored: ExitStack) -> None:
    backends: Any = torch.backends
    cudnn = backends.cudnn
    try:
        if not HAS_NEWER_NAMES or backends.fp32_precision == "none":  # else the older name would have no effect
            _change(restored, cudnn, "allow_tf32", False)
            return
    except RuntimeError:  # the process has set `fp32_precision`, beside which torch refuses the older name
        pass
    for part in (cudnn.conv, cudnn.rnn):
        _change(restored, part, "fp32_precision", "ieee")


def _change(restored: ExitStack, part: Any, name: str, value: bool | str) -> None:
    before = getattr(part, name)
    setattr(part, name, value)
    restored.callback(setattr, part, name, before)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, numbers below 1e-38 count as zero in this thread and in those it starts.

    The gradients of a network stuck on one class fall below that. A CPU is twenty times slower on such numbers, and
    they are too small to change a weight. A thread inherits the setting when it is started, and making a network may
    already start some.
    """
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    """Whether this thread counts denormals as zero; torch can set this but not report it."""
    return float(torch.tensor([1e-30]).mul(1e-10)) == 0
