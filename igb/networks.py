"""Deprecated alias of `igb.models`, kept so that old `_target_`s still import."""

from igb.models import resnet18, resnet50

__all__ = ["resnet18", "resnet50"]
