"""The former name of `igb.models`."""

from igb.models import resnet18, resnet50

__all__ = ["resnet18", "resnet50"]
