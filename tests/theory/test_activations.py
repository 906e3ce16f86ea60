"""Closed forms against quadrature, and quadrature against independent rules."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from igb._checks import InputError
from igb.theory import ACTIVATIONS, Activation
from igb.theory.activations import activation_of

POINTS = [(1.0, 0.0), (0.5, 0.5), (1e-2, 1.0), (1e-8, 1.0), (3.0, 1e-3), (300.0, 200.0)]
CLOSED = {
    "relu": Activation(lambda x: np.maximum(x, 0), kinks=[0]),
    "leaky_relu": Activation(lambda x: np.maximum(x, 0.01 * x), kinks=[0]),
    "erf": Activation(special.erf),
    "linear": Activation(lambda x: x),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("within", "between"), POINTS)
def test_closed_forms_are_what_quadrature_gives(name, within, between):
    v, t = np.array([within]), np.array([between])
    closed, quadrature = ACTIVATIONS[name], CLOSED[name]
    np.testing.assert_allclose(closed.split(v, t), quadrature.split(v, t), rtol=1e-7, atol=1e-13 * (within + between))
    for moment in ("mean", "second_moment", "slope"):
        np.testing.assert_allclose(
            getattr(closed, moment)(v + t),
            getattr(quadrature, moment)(v + t),
            rtol=1e-7,
            atol=1e-13 * (within + between),
        )


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "erf"])
@pytest.mark.parametrize("variance", [0.01, 1.0, 100.0])
def test_moments_are_those_of_an_adaptive_rule(name, variance):
    phi = ACTIVATIONS[name]
    scale = np.sqrt(variance)

    def average(of):
        def integrand(z):
            return of(np.array(scale * z)) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

        return sum(
            integrate.quad(integrand, low, high, epsabs=0, epsrel=1e-11, limit=400)[0]
            for low, high in ((-40, 0), (0, 40))
        )

    q = np.array([variance])
    assert phi.mean(q).item() == pytest.approx(average(phi.function), rel=1e-8, abs=1e-12)
    assert phi.second_moment(q).item() == pytest.approx(average(lambda y: phi.function(y) ** 2), rel=1e-8)
    exact = {
        "tanh": lambda y: (2 * np.exp(-abs(y)) / (1 + np.exp(-2 * abs(y)))) ** 2,
        "gelu": lambda y: special.ndtr(y) + y * np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi),
        "silu": lambda y: special.expit(y) * (1 + y * special.expit(-y)),
        "erf": lambda y: 2 / np.sqrt(np.pi) * np.exp(-(y**2)),
    }[name]
    assert phi.slope(q).item() == pytest.approx(average(lambda y: exact(y) ** 2), rel=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_parts_of_the_variance_are_the_whole(name):
    """E_u Var_v phi + E_u (E_v phi)^2 = E phi^2, whatever the split."""
    phi = ACTIVATIONS[name]
    v, t = (np.array(side) for side in zip(*POINTS, strict=True))
    np.testing.assert_allclose(sum(phi.split(v, t)), phi.second_moment(v + t), rtol=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nothing_cancels_where_all_inputs_are_nearly_one(name):
    """E_u Var_v phi goes to V E phi'^2, to the last digits, though phi itself differs in its 10th digit and beyond."""
    phi, v, t = ACTIVATIONS[name], np.array([1e-20]), np.array([1.0])
    np.testing.assert_allclose(phi.split(v, t)[0] / v, phi.slope(t), rtol=1e-5)
    assert phi.split(np.array([0.0]), t)[0].item() == pytest.approx(0, abs=1e-32)


def test_an_array_is_what_its_points_are():
    v, t = np.random.default_rng(0).uniform(0, 3, (2, 9, 11))
    phi = ACTIVATIONS["tanh"]
    found = phi.split(v, t)
    for place in np.ndindex(3, 2):
        alone = phi.split(v[place][None], t[place][None])
        np.testing.assert_allclose([part[place] for part in found], np.concatenate(alone), rtol=1e-8)


def test_a_function_of_arrays_is_an_activation():
    assert activation_of("tanh") is ACTIVATIONS["tanh"]
    sine = activation_of(np.sin)
    assert sine.second_moment(np.array([1.0])).item() == pytest.approx((1 - np.exp(-2)) / 2, rel=1e-8)
    assert sine.slope(np.array([1.0])).item() == pytest.approx((1 + np.exp(-2)) / 2, rel=1e-8)


@pytest.mark.parametrize("kinks", [[0.1], [-1.0, 1.0]])
def test_kinks_need_to_be_named(kinks):
    def steps(x):
        return sum(np.sign(x - kink) for kink in kinks)

    v, t = np.array([0.3]), np.array([0.05])
    with pytest.raises(InputError, match=r"activation=steps has averages .* name them, as Activation"):
        activation_of(steps).split(v, t)
    whole = sum(Activation(steps, kinks=kinks).split(v, t))
    assert whole.item() == pytest.approx(Activation(steps, kinks=kinks).second_moment(v + t).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("swish", "activation=swish must be one of relu, leaky_relu, tanh, .*, or a function of arrays"),
        (3, "activation=3 must be one of"),
        (np.log, "must give finite, real numbers in the shape it is given"),
        (np.sum, "must give finite, real numbers in the shape it is given"),
        (np.emath.sqrt, "must give finite, real numbers in the shape it is given"),
        (list, "must give finite, real numbers in the shape it is given"),
        (math.tanh, "activation=<built-in function tanh> must be a function of arrays \\("),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_no_activation_is_refused_in_one_line(activation, message):
    with pytest.raises(InputError, match=message):
        activation_of(activation)


@pytest.mark.parametrize(("function", "kinks"), [("relu", []), (np.abs, 0.0)])
def test_an_activation_is_made_of_a_function_and_a_list(function, kinks):
    with pytest.raises(InputError, match=r"activation=.* must "):
        Activation(function, kinks=kinks)


@pytest.mark.parametrize("variance", [299.0, 301.0, 600.0, 975.0, 1e4])
def test_slopes_at_large_variances_are_those_of_a_fine_grid(variance):
    z = np.linspace(-9, 9, 2_000_001)
    density = np.exp(-(z**2) / 2)
    expected = (np.cosh(np.minimum(np.abs(np.sqrt(variance) * z), 300)) ** -4 * density).sum() / density.sum()
    assert ACTIVATIONS["tanh"].slope(np.array([variance])).item() == pytest.approx(expected, rel=1e-8)
