"""Activations, and the Gaussian averages of them that the mean field needs.

All are averages over y = sqrt(T) u + sqrt(V) v with independent standard normal u and v: of variance V over the data,
for fixed weights, about a mean of variance T over the weights. With V and T apart, instead of their sum and the
correlation T/(V + T), nothing cancels where the correlation is next to 1.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from igb._checks import InputError, one_line

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]

REACH = 8.5  # standard deviations to which normal distributions are integrated; beyond it they have 2e-17
TOLERANCE = 1e-8  # relative, of a quadrature; it stops when half as many more nodes change no more
ROUNDING = 1e-14  # of a sum, relative
FIRST_NODES, MOST_NODES = 48, 1500
WIDE = 300.0  # a variance from which what happens about 0 is narrow
SMOOTHED = np.array([-8.0, -4, -2, -1, 0, 1, 2, 4, 8])  # deviations of v about a kink, which it smooths
CHUNK = 1_000_000  # values of an activation that are computed at once


class Activation:
    """An activation function with averages by quadrature.

    The trapezoidal rule on the real line converges exponentially for functions that are analytic near it (L. Trefethen,
    J. Weideman, "The Exponentially Convergent Trapezoidal Rule", SIAM Review 2014). Where there are kinks, or the
    variance is so large that what happens about 0 is narrow, Gauss-Legendre nodes are put between kinks and powers of
    four. Nodes are added until they change nothing.

    Args:
        function: of an array, to an array of its shape.
        name: for messages.
        kinks: the places where it is not smooth.

    >>> square = Activation(lambda x: x**2, 'square')
    >>> round(float(square.second_moment(2.0)), 6)  # E x^4 = 3 * 2^2
    12.0
    """

    def __init__(self, function: Function, name: str = "activation", kinks: Sequence[float] = ()) -> None:
        try:
            self.function, self.name, self.kinks = function, name, np.array(kinks, dtype=float)
            values = function(np.array([-3.0, -0.7, -0.1, 0.1, 0.7, 3.0]))
        except Exception as error:  # of the user's function
            raise InputError(f"activation={function} must be a function of arrays ({one_line(error)})") from error
        is_real = isinstance(values, np.ndarray) and values.shape == (6,) and values.dtype.kind in "fiu"
        if self.kinks.ndim != 1 or not is_real or not np.isfinite(values).all():
            raise InputError(
                f"activation={function} must give finite, real numbers in the shape it is given; kinks are a list"
            )
        self._is_symmetric = any((values[:3] == sign * values[:2:-1]).all() for sign in (-1, 1))  # odd or even
        self._straight = 1e-20 if len(kinks) else 1e-10  # V / T below which a straight line errs less than rounding

    def split(self, within: Array, between: Array) -> tuple[Array, Array]:
        """E_u Var_v phi(y) and E_u (E_v phi(y))^2 for arrays V and T; InputError if they do not converge."""
        shape, flat = np.shape(within), np.stack([np.ravel(within), np.ravel(between)]).astype(float)
        found = np.empty_like(flat)
        tiny = flat[0] < self._straight * flat[1]
        if tiny.any():
            found[:, tiny] = flat[0, tiny] * self.slope(flat[1, tiny]), self.second_moment(flat[1, tiny])
        order = np.flatnonzero(~tiny)[np.argsort(flat.sum(axis=0)[~tiny])]  # those of a chunk need about as many nodes
        for places in np.array_split(order, -(-order.size // 64)) if order.size else ():
            part = flat[:, places]
            found[:, places] = self._converged(functools.partial(self._over_plane, part), part.sum(axis=0))
        return found[0].reshape(shape), found[1].reshape(shape)

    def mean(self, variance: Array) -> Array:
        """E phi(sqrt(q) z) for an array of q."""
        return self._average(self.function, variance)

    def second_moment(self, variance: Array) -> Array:
        """E phi(sqrt(q) z)^2 for an array of q."""
        return self._average(lambda y: self.function(y) ** 2, variance)

    def slope(self, variance: Array) -> Array:
        """E phi'(sqrt(q) z)^2 for an array of q."""
        return self._average(lambda y: self.derivative(y) ** 2, variance)

    def slope_over_variance(self, within: float, between: float) -> float:
        """E_u [E_v phi'(y)^2 / Var_v phi(y)], where each neuron is divided by its own deviation over the data.

        A neuron that is the same for all of the data has no part in it.
        """
        parts = np.array([[within], [between]], dtype=float)

        def average(count: int) -> tuple[Array, Array]:
            outer_weights, y, weights = next(self._conditional(parts, count, 1))
            values = self.function(y)
            variances = ((values - (values * weights).sum(axis=-1, keepdims=True)) ** 2 * weights).sum(axis=-1)
            slopes = (self.derivative(y) ** 2 * weights).sum(axis=-1)
            ratios = np.divide(slopes, variances, where=variances > 0, out=np.zeros_like(slopes))
            found = (ratios * outer_weights).sum(axis=-1)
            return found, ROUNDING * found

        return float(self._converged(average, parts.sum(axis=0)).item())

    def derivative(self, y: Array) -> Array:
        """phi'(y), by central differences of the fourth order."""
        step = 1e-3 * np.maximum(np.abs(y), 1e-3)
        if len(self.kinks):  # none of which may lie in between
            step = np.minimum(step, np.abs(y[..., None] - self.kinks).min(axis=-1) / 4).clip(min=1e-12)
        step = (y + step) - y  # what is really added
        near = self.function(y + step) - self.function(y - step)
        far = self.function(y + 2 * step) - self.function(y - 2 * step)
        return (8 * near - far) / (12 * step)

    def _average(self, of: Function, variance: Array) -> Array:
        flat = np.ravel(variance).astype(float)
        return self._converged(functools.partial(self._over_line, of, flat), flat).reshape(np.shape(variance))

    def _converged(self, averages: Callable[[int], tuple[Array, Array]], variance: Array) -> Array:
        """Averages that half as many more nodes do not change by more than TOLERANCE, or than their rounding."""
        if self._places(variance).size:
            count, most = 24, MOST_NODES // 8
        else:  # close enough to see what happens about 0
            count, most = FIRST_NODES + int(12 * math.sqrt(variance.max(initial=0))), MOST_NODES
        found, _ = averages(count)
        while count < most:
            count += count // 2
            before, (found, rounding) = found, averages(count)
            if (np.abs(found - before) <= TOLERANCE * np.abs(found) + rounding).all():
                return found
        raise InputError(
            f"activation={self.name} has averages that {count} nodes do not give to {TOLERANCE:g}; "
            "if it has kinks, name them, as Activation(function, kinks=[0])"
        )

    def _over_line(self, of: Function, variance: Array, count: int) -> tuple[Array, Array]:
        """Averages of a function, [N], and their rounding."""
        places = self._places(variance)
        found = []
        for part in np.array_split(variance, max(1, variance.size * count * (len(places) + 1) // CHUNK)):
            scale = np.sqrt(part)[:, None]
            nodes, weights = _nodes(count, _relative(places, scale))
            values = of(scale * nodes)
            found.append([(values * weights).sum(axis=1), (np.abs(values) * weights).sum(axis=1)])
        means, sizes = np.concatenate(found, axis=1)
        return means, ROUNDING * sizes

    def _over_plane(self, parts: Array, count: int) -> tuple[Array, Array]:
        """The two averages of `split`, [2, N], and their rounding, for V and T, [2, N]."""
        points = parts.shape[1]
        is_broken = self._places(parts.sum(axis=0)).size > 0
        chunks = points if is_broken else min(points, max(1, points * count**2 // CHUNK))
        found = []
        for outer_weights, y, weights in self._conditional(parts, count, chunks):
            values = self.function(y)
            means = (values * weights).sum(axis=-1)
            variances = ((values - means[..., None]) ** 2 * weights).sum(axis=-1)
            found.append([(variances * outer_weights).sum(axis=1), (means**2 * outer_weights).sum(axis=1)])
        sums = np.concatenate(found, axis=1)
        whole = sums.sum(axis=0)
        rounding = ROUNDING * np.sqrt(sums * whole) + ROUNDING**2 * whole  # of squares of what is small beside the rest
        return sums, rounding

    def _conditional(self, parts: Array, count: int, chunks: int) -> Iterator[tuple[Array, Array, Array]]:
        """Weights of nodes of u, and for each of them values y and weights of nodes of v, for V and T, [2, N]."""
        places = self._places(parts.sum(axis=0))
        for part in np.array_split(parts, chunks, axis=1):
            v, t = np.sqrt(part)[:, :, None]  # [N, 1]
            smoothed = (self.kinks + v[..., None] * SMOOTHED[:, None]).reshape(len(v), -1)
            outer, outer_weights = _nodes(count, np.concatenate([_relative(places, t), _relative(smoothed, t)], axis=1))
            if self._is_symmetric and not places.size:  # the other half of the means gives the same
                half = count // 2
                outer, outer_weights = (
                    outer[half:],
                    outer_weights[half:] * np.where(np.arange(half, count) * 2 == count - 1, 1, 2),
                )
            about = t * outer  # the means over v, [N, nodes]
            nodes, weights = _nodes(count, _relative(places - about[..., None], v[..., None]))
            yield outer_weights, about[..., None] + v[..., None] * nodes, weights

    def _places(self, variance: Array) -> Array:
        """Where Gauss-Legendre nodes stop and start again; none where the trapezoidal rule is used."""
        most = variance.max(initial=0)
        if most <= WIDE:
            return self.kinks
        powers = 4.0 ** np.arange(math.ceil(math.log(REACH * math.sqrt(most), 4)))
        return np.concatenate([self.kinks, -powers, [0.0], powers])


class LeakyReLU(Activation):
    """max(x, a x), in closed form (Y. Cho, L. Saul, "Kernel Methods for Deep Learning", 2009; ReLU is a = 0).

    With theta the angle whose cosine is the correlation, E_u Var_v of ReLU is
    q/(2 pi) ((1 - cos theta) pi + theta cos theta - sin theta). max(x, a x) is a x + (1 - a) max(x, 0).
    """

    def __init__(self, slope: float = 0.01, name: str = "leaky_relu") -> None:
        super().__init__(lambda x: np.where(x > 0, x, slope * x), name, kinks=[] if slope == 1 else [0.0])
        self.negative_slope = slope

    def split(self, within: Array, between: Array) -> tuple[Array, Array]:
        """See `Activation`."""
        a, q = self.negative_slope, within + between
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(q > 0, within / q, 0.0)  # 1 - cos theta
        theta = 2 * np.arcsin(np.sqrt(share / 2))
        exact = theta * np.cos(theta) - np.sin(theta)
        series = theta**3 * (-1 / 3 + theta**2 * (1 / 30 + theta**2 * (-1 / 840 + theta**2 / 45360)))
        variance = q / (2 * math.pi) * (math.pi * share + np.where(theta < 0.1, series, exact))
        return a * within + (1 - a) ** 2 * variance, a * between + (1 - a) ** 2 * (q / 2 - variance)

    def mean(self, variance: Array) -> Array:
        """See `Activation`."""
        return (1 - self.negative_slope) * np.sqrt(variance / (2 * math.pi))

    def second_moment(self, variance: Array) -> Array:
        """See `Activation`."""
        return (1 + self.negative_slope**2) / 2 * variance

    def slope(self, variance: Array) -> Array:
        """See `Activation`."""
        return np.full(np.shape(variance), (1 + self.negative_slope**2) / 2)


class Erf(Activation):
    """The error function, in closed form (C. Williams, "Computing with Infinite Networks", 1996).

    E phi phi' = 2/pi arcsin(2 T / (1 + 2 q)).
    """

    def __init__(self) -> None:
        super().__init__(special.erf, "erf")

    def split(self, within: Array, between: Array) -> tuple[Array, Array]:
        """See `Activation`."""
        q = within + between
        scale = 1 + 2 * q
        whole, part = 2 * q / scale, 2 * between / scale
        cosine_whole = np.sqrt(1 + 4 * q) / scale  # of the angles whose sines these are
        cosine_part = np.sqrt((1 + 2 * within) * (1 + 2 * within + 4 * between)) / scale
        difference = 2 * within / scale * (whole + part) / (whole * cosine_part + part * cosine_whole + 1e-300)
        return 2 / math.pi * np.arcsin(np.minimum(difference, 1)), 2 / math.pi * np.arcsin(part)

    def mean(self, variance: Array) -> Array:
        """See `Activation`."""
        return np.zeros(np.shape(variance))

    def second_moment(self, variance: Array) -> Array:
        """See `Activation`."""
        return 2 / math.pi * np.arcsin(2 * variance / (1 + 2 * variance))

    def slope(self, variance: Array) -> Array:
        """See `Activation`."""
        return 4 / math.pi / np.sqrt(1 + 4 * variance)


class Tanh(Activation):
    """The hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__(np.tanh, "tanh")

    def derivative(self, y: Array) -> Array:
        """1 / cosh(y)^2."""
        return 1 - np.tanh(y) ** 2


ACTIVATIONS: dict[str, Activation] = {
    "relu": LeakyReLU(0.0, "relu"),
    "leaky_relu": LeakyReLU(),
    "tanh": Tanh(),
    "erf": Erf(),
    "gelu": Activation(lambda x: x * special.ndtr(x), "gelu"),
    "silu": Activation(lambda x: x * special.expit(x), "silu"),
    "sigmoid": Activation(special.expit, "sigmoid"),
    "linear": LeakyReLU(1.0, "linear"),
}


def activation_of(activation: "str | Activation | Function") -> Activation:
    """The activation of a name, or of a function of arrays; InputError if it is neither."""
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    if callable(activation):
        return Activation(activation, getattr(activation, "__name__", "activation"))
    raise InputError(f"activation={activation} must be one of {', '.join(ACTIVATIONS)}, or a function of arrays")


def equidistant(count: int) -> tuple[Array, Array]:
    """Nodes of the trapezoidal rule and their weights under the standard normal distribution, both [count]."""
    nodes = np.linspace(-REACH, REACH, count)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def _relative(places: Array, scale: Array) -> Array:
    """Places in units of a scale, within REACH."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(places / scale, nan=0.0).clip(-REACH, REACH)


def _nodes(count: int, breaks: Array) -> tuple[Array, Array]:
    """Nodes and their weights under the standard normal distribution.

    With breaks [..., B] they are [..., N], as many Gauss-Legendre nodes between any two; without, equidistant, [N].
    """
    if breaks.shape[-1] == 0:
        return equidistant(count)
    ends = np.full((*breaks.shape[:-1], 1), REACH)
    edges = np.sort(np.concatenate([-ends, breaks, ends], axis=-1), axis=-1)
    at, weights = np.polynomial.legendre.leggauss(count)
    middle, half = (edges[..., 1:] + edges[..., :-1]) / 2, (edges[..., 1:] - edges[..., :-1]) / 2
    nodes = middle[..., None] + half[..., None] * at
    weights = half[..., None] * weights * np.exp(-(nodes**2) / 2)
    shape = (*breaks.shape[:-1], -1)
    return nodes.reshape(shape), (weights / weights.sum(axis=(-2, -1), keepdims=True)).reshape(shape)
