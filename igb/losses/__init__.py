"""Losses of log p, the schedule over epochs, and the curve of a loss."""

from igb.losses.all_classes import (
    LabelSmoothing,
    NormalizedCrossEntropy,
    NormalizedNegativeCrossEntropy,
    SoftBootstrap,
    SumLoss,
)
from igb.losses.base import ProbabilityLoss, TrueClassLoss
from igb.losses.curve import curve_points, loss_curve, loss_curves
from igb.losses.schedule import LossSchedule
from igb.losses.true_class import (
    AsymmetricGeneralizedCrossEntropy,
    BlurryLoss,
    CrossEntropy,
    FocalLoss,
    GeneralizedCrossEntropy,
    HuberisedCrossEntropy,
    PiecewiseZeroLoss,
    ReverseCrossEntropy,
    SmoothPiecewiseZeroLoss,
    TaylorCrossEntropy,
)

__all__ = [
    "AsymmetricGeneralizedCrossEntropy",
    "BlurryLoss",
    "CrossEntropy",
    "FocalLoss",
    "GeneralizedCrossEntropy",
    "HuberisedCrossEntropy",
    "LabelSmoothing",
    "LossSchedule",
    "NormalizedCrossEntropy",
    "NormalizedNegativeCrossEntropy",
    "PiecewiseZeroLoss",
    "ProbabilityLoss",
    "ReverseCrossEntropy",
    "SmoothPiecewiseZeroLoss",
    "SoftBootstrap",
    "SumLoss",
    "TaylorCrossEntropy",
    "TrueClassLoss",
    "curve_points",
    "loss_curve",
    "loss_curves",
]
