"""Losses of the probabilities of all classes, and the sum of two losses."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from igb import _checks
from igb._checks import InputError
from igb.losses.base import ProbabilityLoss


class NormalizedCrossEntropy(ProbabilityLoss):
    """Normalized cross-entropy, log p_y / sum_k log p_k, between 0 and 1.

    X. Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", arXiv 2006.13554.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(NormalizedCrossEntropy()(logits, target).item(), 4)  # log 0.25 / (log 0.25 + log 0.75)
    0.8281
    """

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """Log p_y / sum_k log p_k."""
        return -F.nll_loss(log_p, target, reduction="none") / log_p.sum(dim=1)


class NormalizedNegativeCrossEntropy(ProbabilityLoss):
    """Normalized negative cross-entropy, 1 - (A + log p_y) / sum_k (A + log p_k), with A = -log p_min.

    X. Ye et al., "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023. A + log p
    is to be positive, for which the authors' code clamps p at p_min = 1e-7, so that smaller p have no gradient. Here it
    is log(1 + p / p_min), which is the same for p far above p_min and has a gradient below.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(NormalizedNegativeCrossEntropy(0.1)(logits, target).item(), 4)  # 1 - log 3.5 / (log 3.5 + log 8.5)
    0.6308
    """

    def __init__(self, p_min: float = 1e-7) -> None:
        super().__init__()
        self.p_min = _checks.number("p_min", p_min, at_least=1e-30, at_most=0.1)

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """1 - log(1 + p_y / p_min) / sum_k log(1 + p_k / p_min)."""
        terms = -F.logsigmoid(math.log(self.p_min) - log_p)
        return 1 + F.nll_loss(terms, target, reduction="none") / terms.sum(dim=1)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"p_min={self.p_min:g}"


class LabelSmoothing(ProbabilityLoss):
    """Cross-entropy with a target of 1 - epsilon + epsilon / C for the true class and epsilon / C for each other.

    C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567.
    epsilon lies in [0, 1].

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(LabelSmoothing(0.2)(logits, target).item(), 4)  # -0.9 log 0.25 - 0.1 log 0.75
    1.2764
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = _checks.number("epsilon", epsilon, at_least=0, at_most=1)

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """-(1 - epsilon) log p_y - epsilon mean_k log p_k."""
        of_true = F.nll_loss(log_p, target, reduction="none")
        return (1 - self.epsilon) * of_true - self.epsilon * log_p.mean(dim=1)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"epsilon={self.epsilon:g}"


class SoftBootstrap(ProbabilityLoss):
    """Soft bootstrapping: cross-entropy with the target beta q + (1 - beta) p, of the one-hot q and the network's p.

    S. Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", arXiv 1412.6596; the
    gradient goes through p in the target too. beta lies in [0, 1]; at 1 the loss is cross-entropy.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(SoftBootstrap(0)(logits, target).item(), 4)  # -0.25 log 0.25 - 0.75 log 0.75
    0.5623
    """

    def __init__(self, beta: float = 0.95) -> None:
        super().__init__()
        self.beta = _checks.number("beta", beta, at_least=0, at_most=1)

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """-beta log p_y - (1 - beta) sum_k p_k log p_k."""
        of_true = F.nll_loss(log_p, target, reduction="none")
        return self.beta * of_true - (1 - self.beta) * (torch.exp(log_p) * log_p).sum(dim=1)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"beta={self.beta:g}"


class SumLoss(ProbabilityLoss):
    """alpha times a loss plus beta times another.

    Symmetric cross-entropy (Y. Wang et al., arXiv 1908.06112) is that of cross-entropy and its reverse; an active
    passive loss (X. Ma et al., arXiv 2006.13554) that of `NormalizedCrossEntropy` and `ReverseCrossEntropy`; an active
    negative loss (X. Ye et al., NeurIPS 2023) that of `NormalizedCrossEntropy` and `NormalizedNegativeCrossEntropy`,
    without the penalty on the weights that the authors add.

    >>> from igb.losses import CrossEntropy, GeneralizedCrossEntropy
    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> loss = SumLoss(CrossEntropy(), GeneralizedCrossEntropy(1), alpha=2, beta=4)
    >>> round(loss(logits, target).item(), 4)  # -2 log 0.25 + 4 * 0.75
    5.7726
    """

    def __init__(self, first: ProbabilityLoss, second: ProbabilityLoss, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        for name, loss in (("first", first), ("second", second)):
            if not isinstance(loss, ProbabilityLoss):
                raise InputError(f"{name} must be a loss that is an igb.losses.ProbabilityLoss; it is {loss}")
        self.first, self.second = first, second
        self.alpha = _checks.number("alpha", alpha, at_least=0)
        self.beta = _checks.number("beta", beta, at_least=0)
        self.is_of_true_class = first.is_of_true_class and second.is_of_true_class

    def of_log_probabilities(self, log_p: Tensor, target: Tensor) -> Tensor:
        """Alpha times the first plus beta times the second."""
        first = self.first.of_log_probabilities(log_p, target)
        return self.alpha * first + self.beta * self.second.of_log_probabilities(log_p, target)

    def __repr__(self) -> str:
        return f"{self.alpha:g} {self.first} + {self.beta:g} {self.second}"
