"""The config group `optimizer`: functions from parameters to an optimizer of torch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from igb import _checks

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> MakeOptimizer:
    """Stochastic gradient descent as `torch.optim.SGD` does it; the three values are finite and at least 0."""
    options: dict[str, Any] = {
        "lr": _checks.number("lr", lr, at_least=0),
        "momentum": _checks.number("momentum", momentum, at_least=0),
        "weight_decay": _checks.number("weight_decay", weight_decay, at_least=0),
    }
    return lambda parameters: torch.optim.SGD(parameters, **options)
