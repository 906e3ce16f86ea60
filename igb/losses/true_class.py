"""Losses of log p_y, the log-probability of the true class.

The equations are those of N. Pellegrino, D. Szczecina, P. Fieguth, "Effects of Initialization Biases on Deep Neural
Network Training Dynamics", arXiv 2511.20826.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igb import _checks
from igb._checks import InputError


class TrueClassLoss(nn.Module, ABC):
    """A loss that depends on the logits through log p_y alone.

    A subclass implements `of_log_probability`. The log-softmax is computed inside, in float32 or wider, so p_y may
    underflow.
    """

    @abstractmethod
    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """The loss of each sample, shape [N], from its log p_y, shape [N]."""

    def forward(self, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """The mean loss over a batch, or with `reduction="none"` the loss of each sample.

        Shapes: logits [N, C], target [N] of whole numbers from 0 to C-1; the result is a scalar, or [N]. InputError for
        any other target, such as class probabilities or a label of -100 to be ignored; on a GPU, and inside
        `torch.func.vmap`, where looking at labels would wait for the device, the loss of such a label is NaN.
        """
        _checks.choice("reduction", reduction, ("mean", "none"))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = _checked(logits, target)
        # Of the ways to take log p_y, nll_loss alone is deterministic on a GPU without waiting for it, and so is
        # masked_fill of those to put a number in.
        log_p = -F.nll_loss(F.log_softmax(logits, dim=1), target.clamp(0, logits.shape[1] - 1), reduction="none")
        log_p = log_p.masked_fill((target < 0) | (target >= logits.shape[1]), torch.nan)
        losses = self.of_log_probability(log_p)
        return losses if reduction == "none" else losses.mean()


class CrossEntropy(TrueClassLoss):
    """Cross-entropy, -log p_y (equation 1)."""

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-log p_y."""
        return -log_p


class BlurryLoss(TrueClassLoss):
    """Blurry loss, -p_y^gamma log p_y (equation 2).

    As written, the gradient includes that of p_y^gamma and points away from the true class where
    p_y < e^(-1/gamma). With `detach_weight`, p_y^gamma is a constant for the gradient, as in many focal-loss
    implementations. gamma is a finite number of at least 0; at 0 the loss is cross-entropy.
    """

    def __init__(self, gamma: float = 0.7, detach_weight: bool = False) -> None:
        super().__init__()
        self.gamma = _checks.number("gamma", gamma, at_least=0)
        self.detach_weight = _checks.boolean("detach_weight", detach_weight)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-p_y^gamma log p_y."""
        weight = torch.exp(self.gamma * log_p)
        return -((weight.detach() if self.detach_weight else weight) * log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"gamma={self.gamma:g}, detach_weight={self.detach_weight}"


class PiecewiseZeroLoss(TrueClassLoss):
    """Piecewise-zero loss: 0 where p_y <= c, -log p_y above (equation 3); c = `cutoff` lies in [0, 1].

    The boundary p_y = c is dead: no loss and no gradient. Up to four units in the last place of log p_y above it count
    as on it, so that rounding never gives a gradient to a network with uniform outputs over 1/c classes. At c = 0 the
    loss is cross-entropy, since p_y > 0 for finite logits.
    """

    def __init__(self, cutoff: float = 0.1) -> None:
        super().__init__()
        self.cutoff = _checks.number("cutoff", cutoff, at_least=0, at_most=1)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-log p_y where p_y is above the cutoff."""
        if self.cutoff == 0:
            return -log_p
        log_cutoff = math.log(self.cutoff)
        rounding = 4 * torch.finfo(log_p.dtype).eps * max(1.0, -log_cutoff)
        # A NaN compares false and so stays NaN.
        return torch.where(log_p <= log_cutoff + rounding, torch.zeros_like(log_p), -log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"cutoff={self.cutoff:g}"


def _checked(logits: Tensor, target: Tensor) -> Tensor:
    """The target as int64; InputError unless it is a class for each sample.

    On a GPU, where looking would wait for it, and inside `torch.func.vmap`, where one cannot look, a target that is no
    class passes; its loss is NaN.
    """
    is_whole = not target.is_floating_point() and not target.is_complex() and target.dtype != torch.bool
    if not is_whole or target.ndim != 1 or logits.ndim != 2 or len(target) != len(logits):
        raise InputError(
            f"target must be whole numbers [N], a class for each sample of logits [N, C]; it is {target.dtype} "
            f"{list(target.shape)} with logits {list(logits.shape)}"
        )
    target = target.long()
    least, most = _range(target)
    if least < 0 or most >= logits.shape[1]:
        raise InputError(f"target must be between 0 and {logits.shape[1] - 1}; it is between {least} and {most}")
    return target


def _range(target: Tensor) -> tuple[int, int]:
    """The least and the largest class; 0 and 0 where one cannot look."""
    if target.device.type != "cpu" or not len(target):
        return 0, 0
    try:
        return int(target.min()), int(target.max())
    except RuntimeError:  # of torch.func.vmap
        return 0, 0
