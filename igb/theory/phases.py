"""What deep random networks come to: fixed points of variance and correlation, and the phases that follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import elementwise

from igb import _checks
from igb._checks import InputError
from igb.theory.activations import Activation, Array, Function, activation_of

LARGEST, SMALLEST = 1e6, 1e-14  # times the first layer's: a variance that goes beyond is infinite, or zero
LEAST = 1e-13  # of 1 - c* that is told from 0
MOST_SEARCHED = 1e3  # of a variance, where an edge is searched; it is beyond where there is no bound
VANISHED = 1e-30  # a variance in place of 0
AT_EDGE = 1e-9  # |chi - 1|

NEUTRAL, PREJUDICED = "neutral", "prejudiced"
ORDERED, CHAOTIC = "deep prejudice, ordered", "deep prejudice, chaotic"
EDGE, VANISHING, UNDEFINED = "edge of chaos", "vanishing", "undefined"


@dataclass(frozen=True)
class FixedPoint:
    """What variance q, correlation c, drift ratio and chi of deep layers come to, and the phase that this is.

    `phase` is `neutral` (drift ratio below 1), `prejudiced` (above 1), `deep prejudice, ordered` (infinite, and chi
    below 1), `deep prejudice, chaotic` (infinite, and chi above 1, as where the variance has no bound), `edge of chaos`
    (chi = 1), `vanishing` (the variance goes to 0 and the correlation stays what it was), or `undefined` (there is no
    fixed point that all inputs come to). What is undefined is NaN.

    >>> found = fixed_point('relu', weight_variance=1.0, bias_variance=0.5)
    >>> round(found.variance, 6), found.phase  # q = q / 2 + 0.5
    (1.0, 'deep prejudice, ordered')
    """

    variance: float
    correlation: float
    drift_ratio: float
    chi: float
    phase: str


def fixed_point(activation: str | Activation | Function, weight_variance: float, bias_variance: float) -> FixedPoint:
    """The fixed point that a deep network of width infinity comes to, from inputs of variance 1.

    q* solves q = sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2; chi is sigma_w^2 E phi'(sqrt(q*) z)^2. Where chi <= 1, c* is
    1. Where it is larger, 1 - c* is the root of sigma_w^2 E_u Var_v phi = q* (1 - c), whose two sides do not cancel as
    c goes to 1. No iteration is stopped, as one at the edge of chaos would be long before it is there.

    Args:
        activation: as of `propagate`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Raises InputError for a value out of range.
    """
    _checks.number("weight_variance", weight_variance, at_least=0)
    _checks.number("bias_variance", bias_variance, at_least=0)
    table = _fixed_points(activation_of(activation), np.array([weight_variance]), np.array([bias_variance]))
    row: dict[str, Any] = table.iloc[0].to_dict()
    return FixedPoint(**row)


def phase_diagram(
    activation: str | Activation | Function, weight_variances: Sequence[float], bias_variances: Sequence[float]
) -> pd.DataFrame:
    """`fixed_point` for every pair of variances: a row for each, with the columns of `FixedPoint`.

    Args:
        activation: as of `propagate`.
        weight_variances: values of sigma_w^2, which change last.
        bias_variances: values of sigma_b^2.

    Raises InputError for a value out of range.
    """
    for name, values in (("weight_variances", weight_variances), ("bias_variances", bias_variances)):
        if np.ndim(values) != 1:
            raise InputError(f"{name}={values} must be a list of numbers")
        for value in values:
            _checks.number(name, value, at_least=0)
    weights, biases = (part.ravel() for part in np.meshgrid(weight_variances, bias_variances, indexing="ij"))
    table = _fixed_points(activation_of(activation), weights.astype(float), biases.astype(float))
    table.insert(0, "weight_variance", weights)
    table.insert(1, "bias_variance", biases)
    return table


def edge_of_chaos(activation: str | Activation | Function, bias_variance: float) -> float:
    """The weight variance at which chi = 1; NaN if there is none.

    The edge is a curve in q without iteration: sigma_w^2 = 1 / E phi'^2 and sigma_b^2 = q - E phi^2 / E phi'^2. For
    ReLU it is 2 at every bias variance, where the variance of a deep network has no bound. There is none for gelu and
    silu with small biases: chi jumps across 1 where the variance does so to infinity.

    Raises InputError for a value out of range.
    """
    phi = activation_of(activation)
    return _where(
        phi,
        _checks.number("bias_variance", bias_variance, at_least=0),
        lambda q: 1 / phi.slope(q),
        lambda found: abs(found.chi - 1) < 1e-6,
    )


def neutral_edge(activation: str | Activation | Function, bias_variance: float) -> float:
    """The weight variance at which c* = 1/2, so that the drift ratio is 1; NaN if there is none, as for ReLU.

    It is a curve in q too: sigma_w^2 = q / (2 E_u Var_v phi) with V = T = q/2, and sigma_b^2 = q - sigma_w^2 E phi^2.

    Raises InputError for a value out of range.
    """
    phi = activation_of(activation)
    if bias_variance == 0:  # all that is above the edge of chaos is neutral, or nothing is
        edge = edge_of_chaos(phi, 0.0)
        return edge if math.isfinite(edge) and fixed_point(phi, 1.05 * edge, 0.0).phase == NEUTRAL else math.nan
    return _where(
        phi,
        _checks.number("bias_variance", bias_variance, at_least=0),
        lambda q: q / (2 * phi.split(q / 2, q / 2)[0]),
        lambda found: abs(found.correlation - 0.5) < 1e-6,
    )


def _where(phi: Activation, bias_variance: float, weights_at: Any, holds: Any) -> float:
    """The weight variance on a curve in q that has a bias variance, and at whose fixed point a condition holds."""

    def excess(log_q: Array) -> Array:
        q = np.exp(log_q)
        return q - weights_at(q) * phi.second_moment(q) - bias_variance

    def is_true(weight_variance: float) -> bool:
        return math.isfinite(weight_variance) and holds(fixed_point(phi, weight_variance, bias_variance))

    if bias_variance == 0 and is_true(found := weights_at(np.array([VANISHED])).item()):
        return found
    low = np.log([bias_variance or 1e-6])  # q is at least the bias variance
    while low < math.log(MOST_SEARCHED * max(bias_variance, 1)):
        high = low + 0.4
        if np.sign(excess(low)) != np.sign(excess(high)):
            root = elementwise.find_root(excess, (low, high), tolerances={"xrtol": 1e-15})
            if is_true(found := weights_at(np.exp(root.x)).item()):
                return found
        low = high
    found = weights_at(np.exp(low)).item()  # where the variance has no bound
    return found if is_true(found) else math.nan


def _fixed_points(phi: Activation, weights: Array, biases: Array) -> pd.DataFrame:
    q = _variances(phi, weights, biases)
    finite = np.isfinite(q) & (q > 0)
    chi, share = np.full(q.shape, math.nan), np.full(q.shape, math.nan)  # of 1 - c*
    chi[finite] = weights[finite] * phi.slope(q[finite])
    with np.errstate(divide="ignore"):  # by a weight variance of 0
        share[finite] = _shares(phi, q[finite], q[finite] / weights[finite], chi[finite])
    for place in np.flatnonzero(~finite):
        chi[place], share[place] = _of_limit(phi, weights[place], q[place])
    with np.errstate(divide="ignore"):
        gamma = (1 - share) / share
    phases = [_phase(*point) for point in zip(q.tolist(), share.tolist(), chi.tolist(), strict=True)]
    return pd.DataFrame({"variance": q, "correlation": 1 - share, "drift_ratio": gamma, "chi": chi, "phase": phases})


def _variances(phi: Activation, weights: Array, biases: Array) -> Array:
    """q* for each pair: the first fixed point in the direction in which the variance of the first layer goes."""

    def excess(log_q: Array, w: Array, b: Array) -> Array:
        q = np.exp(log_q)
        return w * phi.second_moment(q) / q + b / q - 1

    start = np.log(weights + biases, where=weights + biases > 0, out=np.full(weights.shape, -math.inf))
    found = np.full(weights.shape, math.nan)
    found[np.isneginf(start)] = 0.0
    searched = np.flatnonzero(np.isfinite(start))
    sign = np.sign(
        np.where(np.abs(values := excess(start[searched], weights[searched], biases[searched])) < 1e-12, 0, values)
    )
    for place in searched[sign == 0]:
        again = excess(start[place : place + 1] + 1, weights[place : place + 1], biases[place : place + 1]).item()
        found[place] = math.nan if abs(again) < 1e-12 else math.exp(start[place])  # if all are fixed, there is none
    searched, sign = searched[sign != 0], sign[sign != 0]
    near, step = start[searched], 0.25
    while searched.size:
        far = near + sign * step
        changed = np.sign(excess(far, weights[searched], biases[searched])) != sign
        if changed.any():
            w, b = weights[searched[changed]], biases[searched[changed]]
            root = elementwise.find_root(
                excess, (near[changed], far[changed]), args=(w, b), tolerances={"xrtol": 1e-15}
            )
            found[searched[changed]] = np.exp(root.x)
        beyond = ~changed & (np.abs(far - start[searched]) > np.where(sign > 0, math.log(LARGEST), -math.log(SMALLEST)))
        found[searched[beyond]] = np.where(sign[beyond] > 0, math.inf, 0.0)
        left = ~changed & ~beyond
        searched, sign, near = searched[left], sign[left], far[left]
        step *= 1.3
    return found


def _shares(phi: Activation, q: Array, allowed: Array, slopes: Array) -> Array:
    """1 - c*: the root x of E_u Var_v phi = allowed x at variance q, where the slope at x = 0 exceeds 1; else 0."""

    def excess(log_x: Array, q: Array, allowed: Array) -> Array:
        x = np.exp(log_x)
        return phi.split(q * x, q * (1 - x))[0] / (allowed * x) - 1

    found = np.zeros(q.shape)
    above = np.flatnonzero(slopes > 1 + AT_EDGE)
    low, high = np.full(above.shape, math.log(LEAST)), np.zeros(above.shape)
    at_one = excess(high, q[above], allowed[above]) > -1e-12
    found[above[at_one]] = 1.0
    above, low, high = above[~at_one], low[~at_one], high[~at_one]
    if above.size:
        args = (q[above], allowed[above])
        guess = np.log(np.clip(0.05 * (slopes[above] - 1), LEAST, 0.5))  # near the edge 1 - c* is in proportion to this
        low = np.where((guess < high) & (excess(guess, *args) > 0), guess, low)
        root = elementwise.find_root(excess, (low, high), args=args, tolerances={"xrtol": 1e-12, "fatol": 1e-14})
        found[above] = np.where(root.success, np.exp(root.x), 0.0)  # none if it is below LEAST
    return found


def _of_limit(phi: Activation, weight_variance: float, q: float) -> tuple[float, float]:
    """The limits of chi and of 1 - c* where the variance grows without bound, goes to 0, or is any (NaN)."""
    if q == 0 and weight_variance == 0:
        return 0.0, math.nan
    if q == math.inf:
        left, right = (phi.function(far := np.array([-1e8, 1e8])) / far).tolist()
        if np.allclose(phi.function(1e3 * far) / (1e3 * far), (left, right), rtol=1e-6):  # two straight lines
            chi = weight_variance * (left**2 + right**2) / 2
            keeps = abs(left - right) < 1e-6 and abs(chi - 1) > AT_EDGE  # every correlation, but for what biases add
            return chi, math.nan if keeps else 0.0
    at = np.array([LARGEST if q == math.inf else VANISHED if q == 0 else 1.0])
    moment, slope = phi.second_moment(at), phi.slope(at)
    chi = (weight_variance * slope).item()
    if q == math.inf:  # and faster than a straight line
        chi = math.inf
    kept = [phi.split(at * share, at * (1 - share))[0] / (moment * share) for share in (0.2, 0.5)]
    if np.allclose(kept, 1, rtol=1e-5):  # a straight line keeps every correlation
        return chi, math.nan
    relative = at * slope / moment
    return chi, _shares(phi, at, moment, np.where(relative < 1 + 1e-3, 0, relative)).item()


def _phase(q: float, share: float, chi: float) -> str:
    if math.isnan(share):
        return VANISHING if q == 0 else UNDEFINED
    if abs(chi - 1) <= AT_EDGE and share == 0:
        return EDGE
    if share == 0:
        return ORDERED if chi < 1 else CHAOTIC
    return NEUTRAL if share >= 0.5 else PREJUDICED
