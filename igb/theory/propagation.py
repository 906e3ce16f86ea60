"""How variance and correlation pass through the layers of a wide random network."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from igb import _checks
from igb._checks import InputError
from igb.theory.activations import Activation, Array, Function, activation_of

NORMS = ("none", "batch_before", "batch_after", "layer_before", "layer_after")


@dataclass(frozen=True)
class Propagation:
    """The outputs of the weight layers of a network before their activation, from the first to the logits, [depth].

    For fixed weights an output is normal over the data, with variance `within` about a mean that has variance `between`
    over the weights.

    >>> found = propagate('linear', weight_variance=1.0, bias_variance=0.5, depth=3, correlation=0.5)
    >>> found.variance.tolist(), found.within.tolist()  # each layer adds 0.5 to the variance of the means alone
    ([1.5, 2.0, 2.5], [0.5, 0.5, 0.5])
    """

    within: Array
    between: Array
    chi: Array

    @property
    def variance(self) -> Array:
        """The mean-field variance, q = V + T."""
        return self.within + self.between

    @property
    def correlation(self) -> Array:
        """That of the outputs for two inputs, c = T / q; NaN where there is no finite variance."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.between / self.variance

    @property
    def drift_ratio(self) -> Array:
        """The drift ratio, gamma = T / V = c / (1 - c)."""
        with np.errstate(all="ignore"):
            return self.between / self.within


def propagate(
    activation: str | Activation | Function,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    correlation: float = 0.0,
    variance: float = 1.0,
    norm: str = "none",
    residual: bool = False,
) -> Propagation:
    """The mean field of a network of `depth` weight layers, in the limit of infinite width.

    With weights N(0, sigma_w^2 / fan_in), biases N(0, sigma_b^2) and y = sqrt(T) u + sqrt(V) v, a layer gives

        V' = sigma_w^2 E_u Var_v phi(y),    T' = sigma_w^2 E_u (E_v phi(y))^2 + sigma_b^2,

    the recursion of B. Poole et al., arXiv 1606.05340, in the variables of A. Bassi et al., arXiv 2505.12096. `chi` is
    sigma_w^2 E phi'(sqrt(q) z)^2 at the layer's own variance (S. Schoenholz et al., arXiv 1611.01232): by how much the
    next layer grows a gradient, or a small difference between two inputs.

    Args:
        activation: relu, leaky_relu (slope 0.01), tanh, erf, gelu, silu, linear, an `Activation`, or a smooth function
            of arrays.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        depth: weight layers, the last of which gives the logits.
        correlation: of two inputs, in [0, 1].
        variance: of each component of the inputs.
        norm: before or after the activation, `batch` over the data in each neuron, or `layer` over the neurons for each
            input. Batch norm takes away what inputs have in common: before the activation (V, T) becomes (1, 0). With
            untouched running statistics it is the identity, `none`.
        residual: whether every hidden layer but the first adds what it gets to what it gives, as `igb.models.MLP` does:
            h' = h + phi(W h + b), with its norm. T then gains twice the product of the means of both, and chi is larger
            by 1.

    Raises InputError for a value out of range.
    """
    phi = activation_of(activation)
    _checks.number("weight_variance", weight_variance, at_least=0)
    _checks.number("bias_variance", bias_variance, at_least=0)
    _checks.integer("depth", depth, at_least=1)
    _checks.number("correlation", correlation, at_least=0, at_most=1)
    _checks.number("variance", variance, at_least=0)
    _checks.choice("norm", norm, NORMS)
    _checks.boolean("residual", residual)
    found = np.full((3, depth), math.nan)  # V, T, chi
    seen_v, seen_t, seen_mean = variance * (1 - correlation), variance * correlation, 0.0  # by the weights
    for layer in range(depth):
        v, t = weight_variance * seen_v, weight_variance * seen_t + bias_variance
        found[:2, layer] = v, t
        if not math.isfinite(v + t):
            found[:2, layer:] = v + t  # without bound, or unknown
            break
        seen = _activated(phi, v, t, norm)
        found[2, layer] = weight_variance * seen.slope
        if residual and layer > 0:
            found[2, layer] += 1
            seen_t += seen.between + 2 * seen_mean * seen.mean
            seen_v, seen_mean = seen_v + seen.within, seen_mean + seen.mean
        else:
            seen_v, seen_t, seen_mean = seen.within, seen.between, seen.mean
    return Propagation(*found)


def weight_variance_of(
    drift_ratio: float, activation: str | Activation | Function, bias_variance: float, depth: int, **options: Any
) -> float:
    """The weight variance at which `propagate` gives the logits a drift ratio: the largest, between 0.01 and 100.

    Arguments and `options` are those of `propagate`. Raises InputError, with what can be had, if none gives it.
    """
    _checks.number("drift_ratio", drift_ratio, at_least=0)

    def at(log_weight: float) -> float:
        return float(propagate(activation, math.exp(log_weight), bias_variance, depth, **options).drift_ratio[-1])

    def excess(log_weight: float) -> float:
        found = at(log_weight)
        return math.log(found / drift_ratio) if drift_ratio and found else found - drift_ratio

    logs = np.linspace(math.log(0.01), math.log(100), 61)
    found = np.array([at(one) for one in logs])
    known = np.flatnonzero(np.isfinite(found))
    above = found > drift_ratio
    for low, high in zip(known[-2::-1], known[:0:-1], strict=True):
        if above[low] != above[high]:
            return math.exp(brentq(excess, logs[low], logs[high], xtol=1e-12))
    range_ = f"{found[known].min():.3g} to {found[known].max():.3g}" if known.size else "none"
    raise InputError(
        f"drift_ratio={drift_ratio} is given by no weight variance from 0.01 to 100 at depth {depth} and "
        f"bias_variance={bias_variance}; what can be had is {range_}"
    )


class _Activated(NamedTuple):
    """An activation and its norm: V, T and mean of what it gives, and E (d phi / d z)^2, of a small difference."""

    within: float
    between: float
    mean: float
    slope: float


def _activated(phi: Activation, v: float, t: float, norm: str) -> _Activated:
    q = v + t
    if norm in ("batch_before", "layer_before"):
        scale, seen = (v, (1.0, 0.0)) if norm == "batch_before" else (q, (v / q, t / q) if q else (0.0, 0.0))
        if scale == 0:
            return _Activated(*[math.nan] * 4)
        one = np.array([1.0])
        return _Activated(*_split(phi, *seen), phi.mean(one).item(), phi.slope(one).item() / scale)
    within, between = _split(phi, v, t)
    at = np.array([q])
    mean, slope = phi.mean(at).item(), phi.slope(at).item()
    if norm == "batch_after":
        return _Activated(1.0, 0.0, 0.0, phi.slope_over_variance(v, t)) if within else _Activated(*[math.nan] * 4)
    if norm == "layer_after":
        spread = within + between - mean**2
        if not spread > 0:
            return _Activated(*[math.nan] * 4)
        return _Activated(within / spread, max(between - mean**2, 0.0) / spread, 0.0, slope / spread)
    return _Activated(within, between, mean, slope)


def _split(phi: Activation, v: float, t: float) -> tuple[float, float]:
    within, between = phi.split(np.array([v]), np.array([t]))
    return within.item(), between.item()
