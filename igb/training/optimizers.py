"""The config group `optimizer`: functions from parameters to an optimizer of torch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from igb import _checks
from igb._checks import InputError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> MakeOptimizer:
    """Stochastic gradient descent as `torch.optim.SGD` does it; the three values are finite and at least 0."""
    options: dict[str, Any] = {
        "lr": _checks.number("lr", lr, at_least=0),
        "momentum": _checks.number("momentum", momentum, at_least=0),
        "weight_decay": _checks.number("weight_decay", weight_decay, at_least=0),
    }
    return lambda parameters: torch.optim.SGD(parameters, **options)


def adam(
    lr: float = 0.001, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> MakeOptimizer:
    """Adam as `torch.optim.Adam` does it (D. Kingma and J. Ba, arXiv 1412.6980).

    `betas` are two numbers of at least 0 and below 1; the other values are finite and at least 0.
    """
    return _adaptive(torch.optim.Adam, lr, betas, eps, weight_decay)


def adamw(
    lr: float = 0.001, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
) -> MakeOptimizer:
    """Adam with decoupled weight decay as `torch.optim.AdamW` does it (I. Loshchilov, F. Hutter, arXiv 1711.05101).

    `betas` are two numbers of at least 0 and below 1; the other values are finite and at least 0.
    """
    return _adaptive(torch.optim.AdamW, lr, betas, eps, weight_decay)


def _adaptive(
    kind: Callable[..., torch.optim.Optimizer], lr: float, betas: Sequence[float], eps: float, weight_decay: float
) -> MakeOptimizer:
    if isinstance(betas, str) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise InputError(f"betas={betas} must be two numbers")
    options: dict[str, Any] = {
        "lr": _checks.number("lr", lr, at_least=0),
        "betas": tuple(_checks.number("betas", beta, at_least=0, at_most=1 - 1e-9) for beta in betas),
        "eps": _checks.number("eps", eps, at_least=0),
        "weight_decay": _checks.number("weight_decay", weight_decay, at_least=0),
    }

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        # A CUDA graph can hold no step count on the host.
        return kind(parameters, **options, capturable=all(parameter.is_cuda for parameter in parameters))

    return make
