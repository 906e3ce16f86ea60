"""The former name of `igb.data.sources`."""

from igb.data.sources import CIFAR10, Digits, ImageFolder

__all__ = ["CIFAR10", "Digits", "ImageFolder"]
