"""Torchvision's ResNets with a first convolution for the channels of the images."""

import torchvision
from torch import nn


def resnet50(num_classes: int, in_channels: int = 1) -> nn.Module:
    """Torchvision's ResNet-50 for images [N, `in_channels`, H, W] and `num_classes` classes."""
    return _with_channels(torchvision.models.resnet50(num_classes=num_classes), in_channels)


def resnet18(num_classes: int, in_channels: int = 1) -> nn.Module:
    """Torchvision's ResNet-18 for images [N, `in_channels`, H, W] and `num_classes` classes."""
    return _with_channels(torchvision.models.resnet18(num_classes=num_classes), in_channels)


def _with_channels(network: torchvision.models.ResNet, in_channels: int) -> nn.Module:
    network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return network
