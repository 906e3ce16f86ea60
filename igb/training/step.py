"""The training step: the one place where weights are updated."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from igb.compute.cuda.graphs import Graphed


class Step:
    """Forward pass, loss, backward pass and update on one batch.

    Args:
        network: maps images [N, ...] to logits [N, C].
        optimizer: over the network's parameters.
        backward: takes the gradient of the loss; a strategy of Lightning's has its own.
        clip: the largest norm of the gradient of all parameters, to which a larger one is scaled down; None for none.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        clip: float | None = None,
    ) -> None:
        self.network, self.optimizer, self.backward, self.clip = network, optimizer, backward, clip

    def __call__(
        self, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0
    ) -> Tensor:
        """Take the step, and return `weight` times the loss before it, a scalar that stays on the device."""
        self.optimizer.zero_grad()
        value = loss(self.network(images), labels) * weight
        self.backward(value)
        if self.clip is not None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return value.detach()


class GraphedStep:
    """The same step on a card, replayed as a CUDA graph; see `Graphed` for what it cannot depend on.

    It is recorded anew for another loss, weight or option of the optimizer.

    Args:
        step: the step to record.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._graphed = Graphed(self._take, "the training step")

    def __call__(
        self, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0
    ) -> Tensor:
        """As `Step`."""
        self._loss, self._weight = loss, weight
        options = [
            {name: value for name, value in group.items() if name != "params" and not isinstance(value, Tensor)}
            for group in self._step.optimizer.param_groups
        ]
        return self._graphed(images, labels, key=(loss, weight, options))

    def _take(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._step(images, labels, self._loss, self._weight)
