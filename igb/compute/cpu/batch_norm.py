"""Numerically more accurate batch norm with batch statistics, on channels-last maps."""

from typing import Any

import torch
from torch import Tensor

from igb.compute.cpu._vmap import one_by_one


def batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training mode, with cascaded sums over centred maps.

    On channels-last maps torch's own kernel adds row after row in float32, which doubles the rounding error of a
    ResNet-50's gradients; the layout is faster for everything else. Maps are [N, C, H, W]; the running statistics
    are updated with `momentum`.
    """
    normalised, mean, variance, _ = BatchNorm.apply(maps, weight, bias, epsilon)
    if running_mean is not None and running_var is not None:
        count = maps.numel() // maps.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    result: Tensor = normalised
    return result


class BatchNorm(torch.autograd.Function):
    """The part of `batch_norm` that has a gradient."""

    @staticmethod
    def forward(
        maps: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised maps [N, C, H, W], and mean, variance and inverse deviation [C] of each channel."""
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)
        inverse_deviation = (variance + epsilon).rsqrt()
        normalised = torch.native_batch_norm(maps, weight, bias, mean, variance, False, 0.0, epsilon)[0]
        return normalised, mean, variance, inverse_deviation

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what the backward pass needs."""
        maps, weight, _, ctx.epsilon = inputs
        _, mean, variance, inverse_deviation = output
        ctx.save_for_backward(maps, weight, mean, inverse_deviation)
        ctx.mark_non_differentiable(mean, variance, inverse_deviation)
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """For `torch.func.vmap`."""
        return one_by_one(BatchNorm, info, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        """The gradients of maps, weight and bias."""
        if gradient is None:
            return None, None, None, None
        maps, weight, mean, inverse_deviation = ctx.saved_tensors
        maps, weight, bias = torch.ops.aten.native_batch_norm_backward(
            gradient,
            maps,
            weight,
            None,
            None,
            mean,
            inverse_deviation,
            True,
            ctx.epsilon,
            list(ctx.needs_input_grad[:3]),
        )
        return maps, weight, bias, None
