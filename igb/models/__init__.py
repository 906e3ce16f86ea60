"""The networks of the config group `model`."""

from igb.models.resnet import resnet18, resnet50

__all__ = ["resnet18", "resnet50"]
