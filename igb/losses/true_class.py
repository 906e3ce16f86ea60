"""Losses of log p_y, the log-probability of the true class.

Each has the gradient of cross-entropy times a weight w(p_y); see `TrueClassLoss`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from igb import _checks
from igb.losses.base import TrueClassLoss, with_weight


class CrossEntropy(TrueClassLoss):
    """Cross-entropy, -log p_y; w = 1.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(CrossEntropy()(logits, target).item(), 4)  # -log 0.25
    1.3863
    """

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-log p_y."""
        return -log_p


class BlurryLoss(TrueClassLoss):
    """Blurry loss, -p_y^gamma log p_y (equation 2 of N. Pellegrino et al., arXiv 2511.20826).

    As written, w = p^gamma (1 + gamma log p): the gradient includes that of p_y^gamma and points away from the true
    class where p_y < e^(-1/gamma). With `detach_weight`, p_y^gamma is a constant for the gradient, as in many
    focal-loss implementations: then w = p^gamma, and the gradient is that of `GeneralizedCrossEntropy` with q = gamma.
    gamma is a finite number of at least 0; at 0 the loss is cross-entropy.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(BlurryLoss(0.7)(logits, target).item(), 4)  # -0.25^0.7 log 0.25
    0.5253
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
    """Piecewise-zero loss: 0 where p_y <= c, -log p_y above; c = `cutoff` lies in [0, 1]; w is a step from 0 to 1 at c.

    Equation 3 of N. Pellegrino et al., arXiv 2511.20826. The boundary p_y = c is dead: no loss and no gradient. Up to
    four units in the last place of log p_y above it count as on it, so that rounding never gives a gradient to a
    network with uniform outputs over 1/c classes. At c = 0 the loss is cross-entropy, since p_y > 0 for finite logits.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> [round(PiecewiseZeroLoss(cutoff)(logits, target).item(), 4) for cutoff in (0.1, 0.25)]  # -log 0.25, and 0
    [1.3863, 0.0]
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


class GeneralizedCrossEntropy(TrueClassLoss):
    """Generalized cross-entropy, (1 - p_y^q) / q, with w = p^q; q lies in (0, 1].

    Z. Zhang and M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
    arXiv 1805.07836. q = 1 is half the mean absolute error, 1 - p_y; q to 0 is cross-entropy. The authors prune samples
    of a small p_y as well, which is left out here. Public code clamps p_y at 1e-7 or 1e-8, and so has no gradient
    below; the gradient here is that of Blurry loss with its factor held constant, `BlurryLoss(q, True)`.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(GeneralizedCrossEntropy(0.5)(logits, target).item(), 4)  # (1 - 0.25^0.5) / 0.5
    1.0
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        self.q = _checks.number("q", q, at_least=1e-6, at_most=1)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """(1 - p_y^q) / q."""
        return with_weight(-torch.expm1(self.q * log_p) / self.q, torch.exp(self.q * log_p), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"q={self.q:g}"


class HuberisedCrossEntropy(TrueClassLoss):
    """Partially Huberised cross-entropy: -log p_y where p_y > 1/tau, below it the tangent; w = min(1, tau p).

    A. Menon et al., "Can gradient clipping mitigate label noise?", ICLR 2020: -tau p_y + log tau + 1 where
    p_y <= 1/tau. It is Piecewise-zero loss of cutoff 1/tau with a tail that is linear in p_y. tau is at least 1; at 1
    the loss is 1 - p_y.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(HuberisedCrossEntropy(2)(logits, target).item(), 4)  # log 2 + 1 - 2 * 0.25
    1.1931
    """

    def __init__(self, tau: float = 10.0) -> None:
        super().__init__()
        self.tau = _checks.number("tau", tau, at_least=1)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-log p_y, or its tangent at 1/tau."""
        scaled = (math.log(self.tau) + log_p).clamp(max=0)
        value = torch.where(scaled < 0, math.log(self.tau) - torch.expm1(scaled), -log_p)
        return with_weight(value, torch.exp(scaled), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"tau={self.tau:g}"


class SmoothPiecewiseZeroLoss(TrueClassLoss):
    """Piecewise-zero loss with a smooth step: w = p^n / (p^n + c^n), c = `cutoff` in (0, 1), n = `sharpness` above 0.

    The loss is (log(1 + c^-n) - log(1 + (p_y/c)^n)) / n, which is 0 at p_y = 1. For n to infinity its gradient is that
    of Piecewise-zero loss, while its value below c goes to -log c, not to 0. At n = 1 it is -log(p_y + c) plus a
    constant.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(SmoothPiecewiseZeroLoss(0.25, 1)(logits, target).item(), 4)  # log 5 - log 2
    0.9163
    """

    def __init__(self, cutoff: float = 0.1, sharpness: float = 4.0) -> None:
        super().__init__()
        self.cutoff = _checks.number("cutoff", cutoff, at_least=1e-30, at_most=1)
        self.sharpness = _checks.number("sharpness", sharpness, at_least=1e-3)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """(log(1 + c^-n) - log(1 + (p_y/c)^n)) / n."""
        n, log_c = self.sharpness, math.log(self.cutoff)
        above = n * (log_p - log_c)
        # log(1 + e^x) is -logsigmoid(-x), and x + log(1 + e^-x): on either side of c one of them loses no digits.
        below = (_log_one_plus_exp(-n * log_c) + F.logsigmoid(-above)) / n
        over = (_log_one_plus_exp(n * log_c) + F.logsigmoid(above)) / n - log_p
        return with_weight(torch.where(above < 0, below, over), torch.sigmoid(above), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"cutoff={self.cutoff:g}, sharpness={self.sharpness:g}"


class TaylorCrossEntropy(TrueClassLoss):
    """The first t terms of the series of cross-entropy about p_y = 1: the sum of (1 - p_y)^i / i for i from 1 to t.

    L. Feng et al., "Can Cross Entropy Loss Be Robust to Label Noise?", IJCAI 2020; w = 1 - (1 - p)^t, which
    is t p for a small p. t is a whole number of at least 1; at 1 the loss is 1 - p_y.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(TaylorCrossEntropy(2)(logits, target).item(), 4)  # 0.75 + 0.75^2 / 2
    1.0312
    """

    def __init__(self, t: int = 2) -> None:
        super().__init__()
        self.t = _checks.integer("t", t, at_least=1)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """The sum of the terms."""
        rest = -torch.expm1(log_p)
        value = sum((rest**i / i for i in range(2, self.t + 1)), start=rest)
        return with_weight(value, -torch.expm1(self.t * torch.log1p(-torch.exp(log_p))), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"t={self.t}"


class FocalLoss(TrueClassLoss):
    """Focal loss, -(1 - p_y)^gamma log p_y, with w = (1 - p)^gamma - gamma (1 - p)^(gamma - 1) p log p.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, without their class weight.
    With `detach_weight`, (1 - p_y)^gamma is a constant for the gradient, and w = (1 - p)^gamma. gamma is a finite
    number of at least 0; at 0 the loss is cross-entropy.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(FocalLoss(2)(logits, target).item(), 4)  # -0.75^2 log 0.25
    0.7798
    """

    def __init__(self, gamma: float = 2.0, detach_weight: bool = False) -> None:
        super().__init__()
        self.gamma = _checks.number("gamma", gamma, at_least=0)
        self.detach_weight = _checks.boolean("detach_weight", detach_weight)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """-(1 - p_y)^gamma log p_y."""
        factor = (-torch.expm1(log_p)) ** self.gamma
        weight = factor
        if not self.detach_weight:
            # p log p / (1 - p), which goes to -1 where p goes to 1.
            ratio = torch.where(log_p == 0, -1.0, log_p / torch.expm1(-log_p))
            weight = factor * (1 - self.gamma * ratio)
        return with_weight(-factor * log_p, weight, log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"gamma={self.gamma:g}, detach_weight={self.detach_weight}"


class ReverseCrossEntropy(TrueClassLoss):
    """Reverse cross-entropy, -sum_k p_k log q_k of the one-hot target q: A (1 - p_y), with w = A p.

    Y. Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", arXiv 1908.06112, where
    log 0 is set to -A. A is at least 0; the authors' code has -log 1e-4.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(ReverseCrossEntropy(2)(logits, target).item(), 4)  # 2 * 0.75
    1.5
    """

    def __init__(self, A: float = -math.log(1e-4)) -> None:  # noqa: N803  (its name in the paper)
        super().__init__()
        self.A = _checks.number("A", A, at_least=0)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """A (1 - p_y)."""
        return with_weight(-self.A * torch.expm1(log_p), self.A * torch.exp(log_p), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"A={self.A:.4g}"


class AsymmetricGeneralizedCrossEntropy(TrueClassLoss):
    """Asymmetric generalized cross-entropy, ((a + 1)^q - (a + p_y)^q) / q, with w = p (a + p)^(q - 1).

    X. Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", arXiv 2106.03110; a and q
    are above 0, and those of the authors for CIFAR-10 are 0.6 and 0.6.

    >>> logits, target = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])  # [N, C], [N]; p_y = 0.25
    >>> round(AsymmetricGeneralizedCrossEntropy(1, 1)(logits, target).item(), 4)  # 2 - 1.25
    0.75
    """

    def __init__(self, a: float = 0.6, q: float = 0.6) -> None:
        super().__init__()
        self.a = _checks.number("a", a, at_least=1e-6)
        self.q = _checks.number("q", q, at_least=1e-6)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """((a + 1)^q - (a + p_y)^q) / q."""
        p = torch.exp(log_p)
        # (a + p)^q = (a + 1)^q (1 - (1 - p) / (a + 1))^q, which loses no digits where p is near 1.
        share = torch.log1p(torch.expm1(log_p) / (self.a + 1))
        value = -((self.a + 1) ** self.q) * torch.expm1(self.q * share) / self.q
        return with_weight(value, p * (self.a + p) ** (self.q - 1), log_p)

    def extra_repr(self) -> str:
        """The parameters, for `str(loss)`."""
        return f"a={self.a:g}, q={self.q:g}"


def _log_one_plus_exp(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
