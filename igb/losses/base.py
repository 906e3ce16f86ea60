"""What all losses share: the log-softmax, the check of the target, the reduction."""

import inspect
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igb import _checks
from igb._checks import InputError


class ProbabilityLoss(nn.Module, ABC):
    """A loss of the class probabilities.

    A subclass implements `of_log_probabilities`, without clamping: log p is in float32 or wider, and goes far below the
    logarithm of the least number, where a biased network begins.
    """

    is_of_true_class = False  # whether it depends on p_y, the probability of the true class, alone

    @abstractmethod
    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """The loss of each sample, shape [N], from log p [N, C] and the true classes, int64 [N]."""

    def forward(self, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """The mean loss over a batch, or with `reduction="none"` the loss of each sample.

        Shapes: logits [N, C], target [N] of whole numbers from 0 to C-1; the result is a scalar, or [N]. InputError for
        any other target, such as class probabilities or a label of -100 to be ignored; on a GPU, and inside
        `torch.func.vmap`, where looking at labels would wait for the device, the loss of such a label is NaN.
        """
        _checks.choice("reduction", reduction, ("mean", "none"))
        losses, _ = self.with_log_probabilities(logits, target)
        return losses if reduction == "none" else losses.mean()

    def with_log_probabilities(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each sample, [N], and the log p [N, C] that it was computed from."""
        target = _checked(logits, target)
        log_p = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
        losses = self.of_log_probabilities(log_p, target.clamp(0, logits.shape[1] - 1))
        # Of the ways to put a number in, masked_fill is deterministic on a GPU without waiting for it.
        return losses.masked_fill((target < 0) | (target >= logits.shape[1]), torch.nan), log_p


class TrueClassLoss(ProbabilityLoss):
    """A loss that depends on the logits through log p_y alone.

    Its gradient with respect to the true logit is that of cross-entropy times a weight, -w(p_y) (1 - p_y) with
    w = -dloss / dlog p_y (Z. Ou and Y. Zhang, "A Curriculum View of Robust Loss Functions", arXiv 2305.02139).

    A subclass implements `of_log_probability`.
    """

    is_of_true_class = True

    @abstractmethod
    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """The loss of each sample, shape [N], from its log p_y, shape [N]."""

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """The loss of log p_y, which nll_loss alone takes on a GPU deterministically and without waiting for it."""
        return self.of_log_probability(-F.nll_loss(log_p, target, reduction="none"))


def with_weight(value: Tensor, weight: Tensor, log_p: Tensor) -> Tensor:
    """The value of a loss, with -weight for its derivative by log p_y.

    For losses whose derivative, taken operation by operation, would lose all digits where p_y is near 0 or 1.
    """
    tangent = -weight.detach() * log_p
    return value.detach() + (tangent - tangent.detach())


def check(name: str, loss: nn.Module) -> None:
    """Raise InputError unless a loss can be called for the mean over a batch and for the loss of each sample."""
    try:
        inspect.signature(loss.forward).bind(None, None, reduction="none")
    except TypeError:
        raise InputError(
            f'{name}={type(loss).__name__} must be called as loss(logits, target, reduction="none") for the loss of '
            "each sample, as those of igb.losses are"
        ) from None


def weights(loss: nn.Module, log_p: Tensor, gradient: Tensor, target: Tensor) -> Tensor:
    """What a loss lets through of each sample: w = -(dloss / dz_y) / (1 - p_y), float64 [N]; 1 for cross-entropy.

    From log p and the gradient by it, both [N, C]. A loss of p_y alone has w = -dloss / dlog p_y. Of any other, what
    comes from the other classes counts as 0 where p_y is 1 to the last digit of float64.
    """
    own = gradient.gather(1, target[:, None])[:, 0].double()
    if loss.is_of_true_class:
        return -own
    others = gradient.sum(dim=1, dtype=torch.float64) - own
    p = torch.exp(log_p.double())
    of_true, rest = p.gather(1, target[:, None])[:, 0], p.scatter(1, target[:, None], 0.0).sum(dim=1)
    return -own + torch.where(rest > 0, of_true / rest * others, 0.0)


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
