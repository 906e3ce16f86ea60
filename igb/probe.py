"""Deprecated alias of `igb.training.probe`, kept so that old `_target_`s still import."""

from igb.training.probe import Probe

__all__ = ["Probe"]
