"""Losses of log p, the schedule over epochs, and the curve of a loss."""

from igb.losses.curve import curve_points, loss_curve
from igb.losses.schedule import LossSchedule
from igb.losses.true_class import BlurryLoss, CrossEntropy, PiecewiseZeroLoss, TrueClassLoss

__all__ = [
    "BlurryLoss", "CrossEntropy", "LossSchedule", "PiecewiseZeroLoss", "TrueClassLoss", "curve_points", "loss_curve",
]  # fmt: skip
