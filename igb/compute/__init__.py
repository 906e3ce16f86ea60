"""Faster arithmetic for a network: convolutions as matrix products, folded batch norm, and the precision of both."""

from igb.compute.folding import CALIBRATION, fold
from igb.compute.mode import ALL_THREADS, Compute, channels_last

__all__ = ["ALL_THREADS", "CALIBRATION", "Compute", "channels_last", "fold"]
