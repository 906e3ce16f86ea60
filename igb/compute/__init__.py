"""What makes the same network faster: convolutions as matrix products, folded batch norm, and the precision of both."""

from igb.compute.folding import fold
from igb.compute.mode import Compute

__all__ = ["Compute", "fold"]
