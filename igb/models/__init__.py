"""The networks of the config group `model`."""

from igb.models.of_timm import timm
from igb.models.plain import CNN, MLP
from igb.models.resnet import resnet18, resnet50

__all__ = ["CNN", "MLP", "resnet18", "resnet50", "timm"]
