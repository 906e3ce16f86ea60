"""The former name of `igb.training.probe`."""

from igb.training.probe import Probe

__all__ = ["Probe"]
