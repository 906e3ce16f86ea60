"""Deprecated alias of `igb.data.sources`, kept so that old `_target_`s still import."""

from igb.data.sources import CIFAR10, Digits, ImageFolder

__all__ = ["CIFAR10", "Digits", "ImageFolder"]
