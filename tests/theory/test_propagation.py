"""The recursion against wide random networks, and against what is known."""

import math

import numpy as np
import pytest
from scipy import stats

from igb._checks import InputError
from igb.theory import ACTIVATIONS, fixed_point, propagate
from igb.theory.propagation import NORMS

WIDTH, INPUTS, DEPTH = 700, 700, 4


def normalised(values, axis):
    return (values - values.mean(axis=axis, keepdims=True)) / values.std(axis=axis, keepdims=True)


def measured(activation, weight_variance, bias_variance, correlation, norm="none", residual=False):
    """The variance over inputs, and that of the means over neurons, of a random network, each [DEPTH]."""
    random = np.random.default_rng(0)
    phi = ACTIVATIONS[activation].function
    axis = 0 if norm.startswith("batch") else 1
    common = random.standard_normal((1, WIDTH))
    seen = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * random.standard_normal((INPUTS, WIDTH))
    found = []
    for layer in range(DEPTH):
        weights = random.standard_normal((WIDTH, WIDTH)) * math.sqrt(weight_variance / WIDTH)
        outputs = seen @ weights + random.standard_normal(WIDTH) * math.sqrt(bias_variance)
        found.append([outputs.var(axis=0).mean(), (outputs.mean(axis=0) ** 2).mean()])
        given = phi(normalised(outputs, axis) if norm.endswith("before") else outputs)
        given = normalised(given, axis) if norm.endswith("after") else given
        seen = seen + given if residual and layer > 0 else given
    return np.array(found).T


@pytest.mark.parametrize(
    ("activation", "weight_variance", "bias_variance", "correlation"),
    [
        ("relu", 2.0, 0.1, 0.0), ("tanh", 1.5, 0.1, 0.3), ("tanh", 3.0, 0.5, 0.0), ("gelu", 2.0, 0.1, 0.5),
        ("leaky_relu", 1.0, 0.0, 0.9),
    ],
)  # fmt: skip
def test_wide_networks_are_as_predicted(activation, weight_variance, bias_variance, correlation):
    within, between = measured(activation, weight_variance, bias_variance, correlation)
    theory = propagate(activation, weight_variance, bias_variance, DEPTH, correlation)
    np.testing.assert_allclose(theory.within, within, rtol=0.1)
    np.testing.assert_allclose(theory.between, between, rtol=0.15, atol=4 / INPUTS)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_and_residuals_are_as_predicted(activation, norm, residual):
    within, between = measured(activation, 1.5, 0.2, 0.2, norm, residual)
    theory = propagate(activation, 1.5, 0.2, DEPTH, 0.2, norm=norm, residual=residual)
    np.testing.assert_allclose(theory.within, within, rtol=0.1)
    np.testing.assert_allclose(theory.between, between, rtol=0.15, atol=6 / INPUTS)


def test_the_first_layer_is_linear_in_the_inputs():
    first = propagate("tanh", 1.5, 0.25, 1, correlation=0.5, variance=4.0)
    assert (first.within.item(), first.between.item()) == pytest.approx((3.0, 3.25))
    assert first.variance.item() == pytest.approx(6.25)
    assert first.correlation.item() == pytest.approx(0.52)
    assert first.drift_ratio.item() == pytest.approx(0.52 / 0.48)


def test_a_deep_network_comes_to_the_fixed_point():
    for activation, weight_variance, bias_variance in (("erf", 3.0, 0.1), ("tanh", 2.5, 0.1), ("relu", 1.5, 0.1)):
        deep = propagate(activation, weight_variance, bias_variance, 400)
        fixed = fixed_point(activation, weight_variance, bias_variance)
        assert deep.variance[-1] == pytest.approx(fixed.variance, rel=1e-6)
        assert deep.correlation[-1] == pytest.approx(fixed.correlation, rel=1e-6)
        assert deep.chi[-1] == pytest.approx(fixed.chi, rel=1e-6)


def test_the_drift_ratio_grows_by_chi_where_inputs_are_nearly_one():
    """In the ordered phase 1 - c falls by chi in every layer, down to 1e-30, where c is 1 to the last digit."""
    deep = propagate("tanh", 0.8, 0.1, 150)
    assert deep.correlation[-1] == 1
    assert 1e20 < deep.drift_ratio[-1] < math.inf
    np.testing.assert_allclose(deep.drift_ratio[100:] / deep.drift_ratio[99:-1], 1 / deep.chi[99:-1], rtol=1e-3)


def test_relu_at_two_drifts_as_a_power_of_depth():
    """1 - c = (9 pi^2 / 2) / depth^2 for the arc-cosine kernel at the edge of chaos (arXiv 1606.05340)."""
    deep = propagate("relu", 2.0, 0.0, 3000)
    assert (1 - deep.correlation[-1]) * 3000**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.02)
    np.testing.assert_allclose(deep.variance, 2.0, rtol=1e-9)


def test_batch_norm_before_the_activation_resets_the_correlation_in_every_layer():
    deep = propagate("relu", 2.0, 0.0, 50, norm="batch_before")
    np.testing.assert_allclose(deep.drift_ratio[1:], deep.drift_ratio[1])
    assert deep.drift_ratio[1] == pytest.approx(1 / math.pi / (1 - 1 / math.pi))
    assert propagate("relu", 2.0, 0.0, 50).drift_ratio[-1] > 20  # what untouched running statistics give


def test_what_has_no_bound_is_infinite_and_not_a_number():
    deep = propagate("relu", 1e200, 0.0, 4)
    assert deep.variance.tolist()[-1] == math.inf
    assert math.isnan(deep.drift_ratio[-1])
    assert propagate("relu", 0.0, 0.0, 3).variance.tolist() == [0, 0, 0]
    assert np.isnan(propagate("relu", 0.0, 0.0, 3).correlation).all()
    alike = propagate("relu", 2.0, 0.1, 3, correlation=1.0, norm="batch_before")  # by a deviation of 0
    assert alike.variance[0] == 2.1
    assert np.isnan(alike.variance[1:]).all()


@pytest.mark.parametrize("biases", [0.0, 0.5, 4.0])
def test_batch_norm_after_divides_each_neuron_by_its_own_deviation(biases):
    m, step = np.linspace(-9, 9, 40_001, retstep=True)
    density = stats.norm.pdf(m) * step
    m, v = m * np.sqrt(biases), 2.0
    active = stats.norm.cdf(m / np.sqrt(v))
    peak = np.sqrt(v) * stats.norm.pdf(m / np.sqrt(v))
    variance = (m**2 + v) * active + m * peak - (m * active + peak) ** 2  # of max(y, 0)
    expected = 2.0 * (density * active / variance).sum()
    found = propagate("relu", 2.0, biases, 4, norm="batch_after")
    assert found.chi[1:] == pytest.approx([expected] * 3, rel=1e-6)
    assert found.drift_ratio[1:] == pytest.approx([biases / 2] * 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"activation": "swish"}, "activation=swish must be one of"),
        ({"weight_variance": -1}, "weight_variance=-1 must be a finite number of at least 0"),
        ({"bias_variance": math.nan}, "bias_variance=nan must be"),
        ({"depth": 0}, "depth=0 must be a whole number of at least 1"),
        ({"correlation": 1.5}, "correlation=1.5 must be a finite number from 0 to 1"),
        ({"variance": -2}, "variance=-2 must be"),
        ({"norm": "group"}, "norm=group must be one of none, batch_before"),
        ({"residual": "yes"}, "residual=yes must be true or false"),
    ],
)
def test_bad_input_is_one_line(wrong, message):
    right = {"activation": "relu", "weight_variance": 2.0, "bias_variance": 0.1, "depth": 3}
    with pytest.raises(InputError, match=message):
        propagate(**(right | wrong))
