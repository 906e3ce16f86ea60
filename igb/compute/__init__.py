"""What makes the same network faster: convolutions as matrix products, folded batch norm, and the precision of both."""

from igb.compute.folding import CALIBRATION, fold
from igb.compute.mode import Compute, channels_last

__all__ = ["CALIBRATION", "Compute", "channels_last", "fold"]
