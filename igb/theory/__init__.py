"""The mean field of wide random networks: what bias they start with, and in which phase they are. Without torch."""

from igb.theory.activations import ACTIVATIONS, Activation
from igb.theory.guesses import Guesses, guesses
from igb.theory.phases import FixedPoint, edge_of_chaos, fixed_point, neutral_edge, phase_diagram
from igb.theory.propagation import Propagation, propagate, weight_variance_of

__all__ = [
    "ACTIVATIONS", "Activation", "FixedPoint", "Guesses", "Propagation", "edge_of_chaos", "fixed_point",
    "guesses", "neutral_edge", "phase_diagram", "propagate", "weight_variance_of",
]  # fmt: skip
