"""Batch norm with batch statistics of full accuracy on channels-last maps."""

from typing import Any

import torch
from torch import Tensor


class BatchNorm(torch.autograd.Function):
    """What `torch.nn.functional.batch_norm` does in training mode, with cascaded sums over centred maps.

    On channels-last maps torch's own kernel adds row after row in float32, which doubles the rounding error of a
    ResNet-50's gradients; the layout is worth keeping for all else.
    """

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        epsilon: float,
    ) -> Tensor:
        """Normalised maps [N, C, H, W]; the running statistics move by `momentum`."""
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (len(rows) / (len(rows) - 1)), momentum)
        ctx.save_for_backward(maps, weight, mean, (variance + epsilon).rsqrt())
        ctx.epsilon = epsilon
        return torch.native_batch_norm(maps, weight, bias, mean, variance, False, momentum, epsilon)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of maps, weight and bias."""
        maps, weight, mean, inverse_deviation = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[4]]
        maps, weight, bias = torch.ops.aten.native_batch_norm_backward(
            gradient, maps, weight, None, None, mean, inverse_deviation, True, ctx.epsilon, wanted
        )
        return maps, None, None, weight, bias, None, None
