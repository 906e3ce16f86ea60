"""The sources of the config group `data`, one file each."""

from igb.data.sources.cifar10 import CIFAR10
from igb.data.sources.digits import Digits
from igb.data.sources.image_folder import ImageFolder

__all__ = ["CIFAR10", "Digits", "ImageFolder"]
