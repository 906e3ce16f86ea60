"""What share of its inputs an untrained network assigns to each class, from the drift ratio of its logits alone."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from igb import _checks
from igb._checks import InputError
from igb.theory.activations import REACH, Array, equidistant

NODES = 160  # of each dimension of an integral; half as many give a thousand classes to 1e-3, ten to 1e-8
SAMPLES = 10_000  # behind `probability_above` for more than two classes
CHUNK = 2_000_000  # numbers that a sample computes at once


@dataclass(frozen=True)
class Guesses:
    """The guess fractions of random networks whose logits have a drift ratio; see `guesses`.

    >>> round(Guesses(drift_ratio=1.0, classes=2).mean_dominance, 4)  # 1/2 + arctan(1) / pi
    0.75
    >>> round(Guesses(drift_ratio=1.0, classes=2).agreement, 4)  # 1/2 + arcsin(1/2) / pi
    0.6667
    """

    drift_ratio: float
    classes: int

    @functools.cached_property
    def mean_dominance(self) -> float:
        """E max_k G_k over networks; for two classes 1/2 + arctan(sqrt(gamma)) / pi.

        The class with the largest m has the largest G. Given its m = a and e, the others are independent, so that this
        is K times the integral of phi(a) phi(e) P(m < a, e' < e + sqrt(gamma) (a - m))^(K-1) over a and e.
        """
        if self.drift_ratio == math.inf:
            return 1.0
        root = math.sqrt(self.drift_ratio)
        if self.classes == 2:
            return 0.5 + math.atan(root) / math.pi
        nodes, weights = equidistant(NODES)
        a, e = _no_zero(nodes[:, None]), nodes[None]
        k = _no_zero((e + root * a) / math.sqrt(1 + self.drift_ratio))
        scaled = k * math.sqrt(1 + self.drift_ratio)
        others = _bivariate(np.broadcast_to(a, k.shape), k, e / a, (a - root * e) / scaled)
        return min(1.0, float(self.classes * (weights @ others ** (self.classes - 1) @ weights)))

    @functools.cached_property
    def agreement(self) -> float:
        """The probability that two inputs get the same guess, E sum_k G_k^2; for two classes 1/2 + arcsin(c) / pi.

        The logits of the two have correlation c, so that it is K times the integral of phi_2(s, t; c)
        Phi_2(s, t; c)^(K-1) over the logits s and t of a class, in units of their deviation.
        """
        if self.drift_ratio == math.inf:
            return 1.0
        c = self.drift_ratio / (1 + self.drift_ratio)
        if self.classes == 2:
            return 0.5 + math.asin(c) / math.pi
        nodes, weights = equidistant(NODES)
        apart = 1 / (1 + self.drift_ratio)  # 1 - c
        common, own = math.sqrt((1 + c) / 2) * nodes[:, None], math.sqrt(apart / 2) * nodes[None]
        s, t = _no_zero(common + own), _no_zero(common - own)
        root = math.sqrt(apart * (1 + c))  # of 1 - c^2
        others = _bivariate(s, t, (apart * s - 2 * own) / (s * root), (apart * t + 2 * own) / (t * root))
        return float(self.classes * (weights @ others ** (self.classes - 1) @ weights))

    def probability_above(self, threshold: float) -> float:
        """P(max_k G_k > t) over networks: for two classes 2 Phi(-Phi^-1(t) / sqrt(gamma)) from t = 1/2 on.

        For more classes it is the share of 10,000 samples, the same in every call, with a standard error of at most
        0.005. Raises InputError for a threshold outside [0, 1].
        """
        _checks.number("threshold", threshold, at_least=0, at_most=1)
        if threshold < 1 / self.classes:
            return 1.0
        if self.classes == 2 and 0 < self.drift_ratio < math.inf:
            return float(2 * special.ndtr(-special.ndtri(threshold) / math.sqrt(self.drift_ratio)))
        if self.drift_ratio in (0, math.inf):
            return float(self.mean_dominance > threshold + 1e-12)
        return float((self._maxima > threshold).mean())

    def density(self, share: Array) -> Array:
        """For two classes the density of G_0 over networks at shares in (0, 1), an array of any shape.

        G_0 = Phi(sqrt(gamma) Z), so that with x = Phi^-1(g) it is phi(x / sqrt(gamma)) / (sqrt(gamma) phi(x)). Raises
        InputError for more classes, and for a drift ratio of 0 or infinity, where all is in one point.
        """
        if self.classes != 2:
            raise InputError(f"classes={self.classes} must be 2 for a density")
        if self.drift_ratio in (0, math.inf):
            raise InputError(f"drift_ratio={self.drift_ratio} must be positive and finite for a density")
        share = np.asarray(share, dtype=float)
        if not ((share > 0) & (share < 1)).all():
            raise InputError("share must be between 0 and 1, and neither")
        x = special.ndtri(share)
        found: Array = np.exp(x**2 / 2 * (1 - 1 / self.drift_ratio)) / math.sqrt(self.drift_ratio)
        return found

    def sample(self, count: int, images: int | None = None, seed: int = 0) -> Array:
        """Guess fractions of `count` networks, [count, classes], counted on so many `images` or on endlessly many.

        G_k is the integral over x of phi(x - mu_k) prod_{j != k} Phi(x - mu_j), with mu = sqrt(gamma) m. Raises
        InputError for a count below 1.
        """
        _checks.integer("count", count, at_least=1)
        random = np.random.default_rng(_checks.seed("seed", seed))
        means = random.standard_normal((count, self.classes))
        if self.drift_ratio == math.inf:
            found = np.eye(self.classes)[means.argmax(axis=1)]
        else:
            means *= math.sqrt(self.drift_ratio)
            offsets, step = np.linspace(-REACH, REACH, NODES, retstep=True)
            parts = []
            for part in np.array_split(means, max(1, means.size * offsets.size // CHUNK)):
                x = part.max(axis=1)[:, None, None] + offsets - part[..., None]
                below = special.log_ndtr(x)
                parts.append(np.exp(below.sum(axis=1, keepdims=True) - below - x**2 / 2).sum(axis=2) * step)
            found = np.concatenate(parts) / math.sqrt(2 * math.pi)
            found /= found.sum(axis=1, keepdims=True)
        if images is None:
            return found
        _checks.integer("images", images, at_least=1)
        return random.multinomial(images, found) / images

    @functools.cached_property
    def _maxima(self) -> Array:
        maxima: Array = self.sample(SAMPLES).max(axis=1)
        return maxima


def guesses(drift_ratio: float, classes: int) -> Guesses:
    """The guess fractions that a drift ratio of the logits gives over random networks (arXiv 2306.00809, 2505.12096).

    For fixed weights the logit of class k over the data is sqrt(gamma) m_k + e_k in units of its deviation, with m
    standard normal over the weights and e over the data, and G_k = P(k = argmax_j (sqrt(gamma) m_j + e_j)).

    Args:
        drift_ratio: gamma, from 0 (all classes alike) to infinity (one class takes all).
        classes: K, at least 2.

    Raises InputError for a value out of range.
    """
    if not isinstance(drift_ratio, float) or drift_ratio != math.inf:
        _checks.number("drift_ratio", drift_ratio, at_least=0)
    return Guesses(float(drift_ratio), _checks.integer("classes", classes, at_least=2))


def _no_zero(values: Array) -> Array:
    return np.where(values == 0, 1e-300, values)


def _bivariate(h: Array, k: Array, h_slope: Array, k_slope: Array) -> Array:
    """P(X < h, Y < k) of standard normal X and Y of correlation rho, h and k not zero, by Owen's T function.

    The slopes are (k - rho h) / (h sqrt(1 - rho^2)), and the same with h and k exchanged (D. Owen, 1956).
    """
    found = (special.ndtr(h) + special.ndtr(k)) / 2 - special.owens_t(h, h_slope) - special.owens_t(k, k_slope)
    return np.clip(np.where((h > 0) == (k > 0), found, found - 0.5), 0, 1)
