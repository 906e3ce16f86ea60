"""Networks without tricks: fully connected layers, and three convolutions."""

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from igb import _checks
from igb._checks import InputError

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "linear": nn.Identity}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
PLACES = ("none", *(f"{norm}_{place}" for norm in NORMS for place in ("before", "after")))
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class MLP(nn.Module):
    """Hidden layers of one width, each a linear layer and an activation, and a linear head.

    Args:
        num_classes: C, the number of logits.
        image_size: height and width of the images, in pixels.
        in_channels: their channels.
        depth: the number of hidden layers.
        width: units in each.
        activation: `relu`, `tanh`, `gelu`, `sigmoid` or `linear`, which leaves it out.
        norm: `none`, or `batch` or `layer` norm `_before` or `_after` the activation.
        residual: whether each hidden layer but the first adds what it gets to what it gives.

    >>> import torch
    >>> MLP(num_classes=10, image_size=8, depth=3, width=16)(torch.zeros(5, 1, 8, 8)).shape  # [N, C]
    torch.Size([5, 10])
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        in_channels: int = 1,
        depth: int = 2,
        width: int = 256,
        activation: str = "relu",
        norm: str = "none",
        residual: bool = False,
    ) -> None:
        super().__init__()
        _checks.integer("depth", depth, at_least=1)
        _checks.integer("width", width, at_least=1)
        self.residual = _checks.boolean("residual", residual)
        self.norm = _checks.choice("norm", norm, PLACES)
        self.activation = _checks.choice("activation", activation, ACTIVATIONS)
        (kind, _, place), make = norm.partition("_"), ACTIVATIONS[activation]
        inputs = [in_channels * image_size**2, *[width] * (depth - 1)]
        self.layers = nn.ModuleList()
        for size in inputs:
            parts: list[nn.Module] = [nn.Linear(size, width), make()]
            if kind != "none":
                parts.insert(1 if place == "before" else 2, NORMS[kind](width))
            self.layers.append(nn.Sequential(*parts))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of images [N, I, H, W]."""
        units = images.flatten(1)
        for number, layer in enumerate(self.layers):
            units = layer(units) + units if self.residual and number else layer(units)
        logits: Tensor = self.head(units)
        return logits


class CNN(nn.Sequential):
    """Three 3x3 convolutions, each with ReLU and pooling over 2x2 pixels, and a linear head.

    Args:
        num_classes: C, the number of logits.
        image_size: height and width of the images, in pixels; at least 8.
        in_channels: their channels.
        width: channels of the first convolution; the second has twice and the third four times as many.
        pool: `max` or `avg`.

    >>> import torch
    >>> CNN(num_classes=10, image_size=32, in_channels=3)(torch.zeros(5, 3, 32, 32)).shape  # [N, C]
    torch.Size([5, 10])
    """

    def __init__(
        self, num_classes: int, image_size: int, in_channels: int = 1, width: int = 32, pool: str = "max"
    ) -> None:
        _checks.integer("width", width, at_least=1)
        pooling = POOLS[_checks.choice("pool", pool, POOLS)]
        if image_size < 8:
            raise InputError(f"image_size={image_size} must be at least 8 pixels for three poolings")
        channels = (in_channels, width, 2 * width, 4 * width)
        parts: list[nn.Module] = []
        for given, made in itertools.pairwise(channels):
            parts += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU(), pooling(2)]
        super().__init__(*parts, nn.Flatten(), nn.Linear(channels[-1] * (image_size // 8) ** 2, num_classes))
