"""Convolutions as matrix products (im2col and GEMM): the same sums, without oneDNN's overhead on small maps.

A convolution multiplies rows, one per pixel or per image, by a matrix made of its weights. Every step from images to
rows and from weights to the matrix only copies numbers, so its gradient is its adjoint: the same copies backwards,
added up.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igb.compute.cpu._vmap import one_by_one

Pair = tuple[int, int]  # vertical, horizontal

FEW_ROWS = 32  # below this a weight gradient is bound by writing it, which float32 does once and bfloat16 twice


@dataclass(frozen=True)
class Window:
    """How a convolution slides over a map; all sizes in pixels.

    >>> same = Window(size=(2, 2), kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> same.output, same.sees_whole_map
    ((2, 2), True)
    """

    size: Pair  # of the map
    kernel: Pair
    stride: Pair
    padding: Pair

    @functools.cached_property
    def output(self) -> Pair:
        """Size of the output map."""
        height, width = ((self.size[i] + 2 * self.padding[i] - self.kernel[i]) // self.stride[i] + 1 for i in range(2))
        return height, width

    @functools.cached_property
    def sees_whole_map(self) -> bool:
        """Whether the kernel covers the map at every position, so that taps on padding can be left out."""
        return all(
            (self.output[i] - 1) * self.stride[i] <= self.padding[i]
            and self.size[i] + self.padding[i] <= self.kernel[i]
            for i in range(2)
        )

    @functools.cached_property
    def taps_on_map(self) -> list[tuple[slice, slice]]:
        """For each output pixel, if `sees_whole_map`, the taps that lie on the map."""
        tops, lefts = ([self.padding[i] - o * self.stride[i] for o in range(self.output[i])] for i in range(2))
        height, width = self.size
        return [(slice(top, top + height), slice(left, left + width)) for top in tops for left in lefts]


@functools.cache
def window(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Window:
    """The shared Window of these numbers, which caches its properties."""
    return Window(size, kernel, stride, padding)


def form(window: Window, dtype: torch.dtype, device: torch.device) -> str:
    """The cheapest way to compute a convolution, by a rule from measurements on a CPU; all of igb uses it.

    `pointwise`: a 1x1 kernel, whose rows are the pixels. `map`: the kernel covers the map, all pixels of an image are
    one row, and nothing is multiplied by padding. `patches` copies the neighbourhood of each output pixel into a
    row, which only pays on maps so small that oneDNN's own convolution, `direct`, mostly multiplies padding. CUDA's
    libraries need no such help.
    """
    if device.type != "cpu" or min(window.output) < 1:  # torch refuses an empty output
        return "direct"
    if window.kernel == (1, 1) and window.padding == (0, 0):
        return "pointwise"
    if window.sees_whole_map:
        return "map"
    pixels = window.output[0] * window.output[1]
    return "patches" if pixels <= (16 if dtype == torch.bfloat16 else 4) else "direct"


def rows_of(images: Tensor, window: Window, form: str) -> Tensor:
    """The rows [M, K] that a convolution of images [N, H, W, C] multiplies (im2col); a view if no pixel repeats."""
    if form == "map":
        return images.reshape(len(images), -1)
    down, across = window.stride
    if form == "pointwise":
        return (images if down == across == 1 else images[:, ::down, ::across]).reshape(-1, images.shape[3])
    top, left = window.padding
    images = F.pad(images, (0, 0, left, left, top, top)) if top or left else images
    batch, row, column, channel = images.stride()
    shape = (len(images), *window.output, *window.kernel, images.shape[3])
    strides = (batch, row * down, column * across, row, column, channel)
    return images.as_strided(shape, strides, images.storage_offset()).reshape(shape[0] * shape[1] * shape[2], -1)


def rows_adjoint(rows: Tensor, window: Window, form: str, count: int) -> Tensor:
    """The gradient of `count` images [N, H, W, C], from that of their rows (col2im)."""
    if form == "map" or (form == "pointwise" and window.stride == (1, 1)):
        return rows.view(count, *window.size, -1)
    patches = rows.view(count, *window.output, *window.kernel, -1)
    images = rows.new_zeros(count, *window.size, patches.shape[5])
    for y, (to_y, from_y) in enumerate(_overlaps(window, 0)):
        for x, (to_x, from_x) in enumerate(_overlaps(window, 1)):
            images[:, to_y, to_x] += patches[:, from_y, from_x, y, x]
    return images


def _overlaps(window: Window, axis: int) -> Iterator[tuple[slice, slice]]:
    """For each tap, the pixels of the map that it touches, and the output pixels it touches them from."""
    stride = window.stride[axis]
    for tap in range(window.kernel[axis]):
        offset = tap - window.padding[axis]
        first = max(0, -(offset // stride))
        last = min(window.output[axis] - 1, (window.size[axis] - 1 - offset) // stride)
        end = max(first, last + 1)  # the tap may miss the map at every position
        yield slice(first * stride + offset, max(end * stride + offset - stride + 1, 0), stride), slice(first, end)


def matrix_of(weight: Tensor, window: Window, form: str, dtype: torch.dtype, scale: Tensor | None = None) -> Tensor:
    """The matrix [outputs, K] of a weight [O, I, kh, kw], each output channel times `scale` [O], rounded once."""
    taps = weight.permute(0, 2, 3, 1)
    blocks = [taps[:, rows, columns] for rows, columns in window.taps_on_map] if form == "map" else [taps]
    if len(blocks) == 1 and scale is None:
        return blocks[0].to(dtype).reshape(len(weight), -1)
    matrix = torch.empty(len(blocks), *blocks[0].shape, dtype=dtype, device=weight.device)
    for part, block in zip(matrix, blocks, strict=True):
        part.copy_(block) if scale is None else torch.mul(block, scale[:, None, None, None], out=part)
    return matrix.view(len(blocks) * len(weight), -1)


def matrix_adjoint(matrix: Tensor, window: Window, form: str) -> Tensor:
    """The gradient of a weight [O, I, kh, kw], from that of its matrix."""
    if form != "map":
        return matrix.view(len(matrix), *window.kernel, -1).permute(0, 3, 1, 2)
    blocks = matrix.view(
        len(window.taps_on_map), -1, *window.size, matrix.shape[1] // (window.size[0] * window.size[1])
    )
    taps = matrix.new_zeros(blocks.shape[1], *window.kernel, blocks.shape[4])
    for block, (rows, columns) in zip(blocks, window.taps_on_map, strict=True):
        taps[:, rows, columns] += block
    return taps.permute(0, 3, 1, 2)


class MatrixConvolution(torch.autograd.Function):
    """A convolution without bias of images [N, I, H, W], computed as a matrix product in the precision of the images.

    If rows are few, the weight's gradient is computed in the precision of the weight.
    """

    @staticmethod
    def forward(images: Tensor, weight: Tensor, window: Window, form: str) -> tuple[Tensor, Tensor]:
        """Feature maps [N, O, H', W'] in channels-last layout, and the matrix of the weight for the backward pass."""
        rows = rows_of(images.permute(0, 2, 3, 1), window, form)
        matrix = matrix_of(weight, window, form, images.dtype)
        shape = (len(images), len(weight), *window.output)
        maps = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
        # Not a view of the product, which the layer after this one could not change in place, as ReLU does in VGG.
        torch.mm(rows, matrix.t(), out=maps.permute(0, 2, 3, 1).view(len(rows), -1))
        return maps, matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Window, str], output: tuple[Tensor, Tensor]) -> None:
        """Save what the backward pass needs; the rows, mostly a view of the images, are made again there."""
        images, weight, ctx.window, ctx.form = inputs
        ctx.weight_dtype = weight.dtype
        ctx.save_for_backward(images, weight, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """For `torch.func.vmap`."""
        return one_by_one(MatrixConvolution, info, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of images and weight; torch's own where their gradient may be asked for in turn."""
        if gradient is None:
            return None, None, None, None
        images, weight, matrix = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        if torch.is_grad_enabled():
            options = (list(ctx.window.stride), list(ctx.window.padding), [1, 1], False, [0, 0], 1, wanted)
            found = torch.ops.aten.convolution_backward(gradient, images, weight, None, *options)
            return found[0], found[1], None, None
        rows = rows_of(images.permute(0, 2, 3, 1), ctx.window, ctx.form)
        gradient = gradient.permute(0, 2, 3, 1).reshape(len(rows), -1)
        images_gradient = weight_gradient = None
        if wanted[0]:
            adjoint = rows_adjoint(gradient @ matrix, ctx.window, ctx.form, len(images))
            images_gradient = adjoint.permute(0, 3, 1, 2)
        if wanted[1]:
            if len(rows) <= FEW_ROWS:
                gradient, rows = gradient.to(ctx.weight_dtype), rows.to(ctx.weight_dtype)
            weight_gradient = matrix_adjoint((gradient.T @ rows).to(ctx.weight_dtype), ctx.window, ctx.form)
        return images_gradient, weight_gradient, None, None


def convolve(images: Tensor, weight: Tensor, window: Window, form: str) -> Tensor:
    """Feature maps [N, O, H', W'] of images [N, I, H, W] by `MatrixConvolution`."""
    maps: Tensor = MatrixConvolution.apply(images, weight, window, form)[0]
    return maps
