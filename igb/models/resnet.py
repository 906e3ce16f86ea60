"""Torchvision's ResNets with a first convolution for one grayscale channel."""

import torchvision
from torch import nn


def resnet50(num_classes: int) -> nn.Module:
    """Torchvision's ResNet-50 for images [N, 1, H, W] and `num_classes` classes."""
    return _one_channel(torchvision.models.resnet50(num_classes=num_classes))


def resnet18(num_classes: int) -> nn.Module:
    """Torchvision's ResNet-18 for images [N, 1, H, W] and `num_classes` classes."""
    return _one_channel(torchvision.models.resnet18(num_classes=num_classes))


def _one_channel(network: torchvision.models.ResNet) -> nn.Module:
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return network
