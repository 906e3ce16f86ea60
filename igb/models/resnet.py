"""Torchvision's ResNets with a first convolution for the channels of the images, and other norms and stems."""

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

from igb import _checks

GROUPS = 32  # of group norm (Y. Wu, K. He, arXiv 1803.08494)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(GROUPS, channels),
    "none": lambda channels: nn.Identity(),
}
STEMS = ("imagenet", "cifar")


def resnet50(num_classes: int, in_channels: int = 1, norm: str | None = None, stem: str | None = None) -> nn.Module:
    """Torchvision's ResNet-50 for images [N, `in_channels`, H, W] and `num_classes` classes.

    Args:
        num_classes: C, the number of logits.
        in_channels: channels of the images.
        norm: `batch` (also if None), `group` (32 groups) or `none`, which leaves it out everywhere: the same function
            as batch norm whose running statistics are untouched.
        stem: `imagenet` (also if None), a 7x7 convolution of stride 2 and max pooling, or `cifar`, a 3x3 convolution of
            stride 1.
    """
    return _resnet(torchvision.models.resnet50, num_classes, in_channels, norm, stem)


def resnet18(num_classes: int, in_channels: int = 1, norm: str | None = None, stem: str | None = None) -> nn.Module:
    """Torchvision's ResNet-18; see `resnet50`."""
    return _resnet(torchvision.models.resnet18, num_classes, in_channels, norm, stem)


def _resnet(
    make: Callable[..., Any], num_classes: int, in_channels: int, norm: str | None, stem: str | None
) -> nn.Module:
    network: nn.Module = make(num_classes=num_classes, norm_layer=NORMS[_checks.choice("norm", norm or "batch", NORMS)])
    if _checks.choice("stem", stem or "imagenet", STEMS) == "imagenet":
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network
