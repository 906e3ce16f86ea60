"""The sources of the config group `data`."""

from igb.data.sources.digits import Digits
from igb.data.sources.downloaded import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from igb.data.sources.image_folder import ImageFolder

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "SVHN", "Digits", "FashionMNIST", "ImageFolder"]
