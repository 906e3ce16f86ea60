"""Fixed points against long iteration, edges against what defines them."""

import math

import numpy as np
import pytest

from igb._checks import InputError
from igb.theory import ACTIVATIONS, Activation, edge_of_chaos, fixed_point, neutral_edge, phase_diagram, propagate

SQUARE = 0.1  # bias variance


@pytest.mark.parametrize(
    ("activation", "weight_variance", "bias_variance", "phase"),
    [
        ("tanh", 1.0, 0.1, "deep prejudice, ordered"),
        ("tanh", 2.3, 0.1, "prejudiced"),
        ("tanh", 3.5, 0.1, "neutral"),
        ("tanh", 2.0, 0.0, "neutral"),
        ("tanh", 0.5, 0.0, "vanishing"),
        ("erf", 5.0, 0.5, "neutral"),
        ("relu", 1.5, 0.1, "deep prejudice, ordered"),
        ("relu", 3.0, 0.1, "deep prejudice, chaotic"),
        ("relu", 1.0, 0.0, "deep prejudice, ordered"),
        ("relu", 2.0, 0.0, "edge of chaos"),
        ("gelu", 1.5, 0.1, "deep prejudice, ordered"),
        ("gelu", 3.0, 0.1, "deep prejudice, chaotic"),
        ("linear", 0.9, 0.1, "deep prejudice, ordered"),
        ("linear", 1.5, 0.1, "undefined"),
        ("tanh", 0.0, 0.3, "deep prejudice, ordered"),
        ("tanh", 0.0, 0.0, "vanishing"),
    ],
)
def test_phases(activation, weight_variance, bias_variance, phase):
    found = fixed_point(activation, weight_variance, bias_variance)
    assert found.phase == phase
    if phase in ("neutral", "prejudiced"):
        assert found.drift_ratio == pytest.approx(found.correlation / (1 - found.correlation))
    elif phase not in ("vanishing", "undefined"):
        assert (found.correlation, found.drift_ratio) == (1, math.inf)
    else:
        assert math.isnan(found.correlation)
    if found.variance and math.isfinite(found.variance):
        deep = propagate(activation, weight_variance, bias_variance, 300)
        assert deep.variance[-1] == pytest.approx(found.variance, rel=1e-6)
        assert deep.correlation[-1] == pytest.approx(found.correlation, abs=1e-6)
    elif found.variance == math.inf:
        assert propagate(activation, weight_variance, bias_variance, 25).variance[-1] > 100
    elif found.variance == 0:
        assert propagate(activation, weight_variance, bias_variance, 100).variance[-1] < 1e-9


def test_what_has_no_one_fixed_point_is_not_a_number():
    assert math.isnan(fixed_point("relu", 2.0, 0.0).variance)  # every variance is one
    assert fixed_point("linear", 1.5, 0.1).variance == math.inf
    assert math.isnan(fixed_point("linear", 1.5, 0.1).drift_ratio)
    assert fixed_point("relu", 3.0, 0.1).chi == pytest.approx(1.5)


def test_a_fixed_point_next_to_the_edge_is_found_where_iteration_would_stop_early():
    """1 - c* is about (chi - 1) times a constant, and an iteration moves by its square in a layer."""
    edge = edge_of_chaos("tanh", SQUARE)
    near, nearer = (fixed_point("tanh", edge * (1 + by), SQUARE) for by in (1e-4, 1e-6))
    assert near.phase == nearer.phase == "prejudiced"
    assert nearer.drift_ratio * (nearer.chi - 1) == pytest.approx(near.drift_ratio * (near.chi - 1), rel=1e-3)
    assert nearer.drift_ratio / near.drift_ratio == pytest.approx(100, rel=0.01)
    assert fixed_point("tanh", edge * (1 - 1e-6), SQUARE).phase == "deep prejudice, ordered"


@pytest.mark.parametrize("activation", ["tanh", "erf"])
@pytest.mark.parametrize("bias_variance", [1e-4, 0.1, 2.0])
def test_the_edges_are_where_chi_is_one_and_the_drift_ratio_is_one(activation, bias_variance):
    edge, neutral = edge_of_chaos(activation, bias_variance), neutral_edge(activation, bias_variance)
    assert fixed_point(activation, edge, bias_variance).chi == pytest.approx(1, abs=1e-9)
    assert fixed_point(activation, neutral, bias_variance).drift_ratio == pytest.approx(1, abs=1e-8)
    assert edge < neutral
    phases = [
        fixed_point(activation, by, bias_variance).phase
        for by in (0.99 * edge, 1.01 * edge, 0.99 * neutral, 1.01 * neutral)
    ]
    assert phases == ["deep prejudice, ordered", "prejudiced", "prejudiced", "neutral"]


def test_known_edges():
    assert [edge_of_chaos("relu", bias) for bias in (0, 0.1, 1)] == [2, 2, 2]
    assert edge_of_chaos("leaky_relu", 0.1) == pytest.approx(2 / 1.0001)
    assert edge_of_chaos("linear", 0.1) == 1
    assert edge_of_chaos("tanh", 0.0) == neutral_edge("tanh", 0.0) == pytest.approx(1)
    assert edge_of_chaos("erf", 0.0) == pytest.approx(math.pi / 4)
    assert math.isnan(neutral_edge("relu", 0.1))
    assert math.isnan(neutral_edge("relu", 0.0))
    assert math.isnan(edge_of_chaos("gelu", 0.1))  # chi jumps across 1
    below, above = (fixed_point("gelu", 2.0 * by, 0.1) for by in (0.95, 1.05))
    assert below.chi < 1 < above.chi


def test_a_kinked_activation_has_phases_too():
    hard = Activation(lambda x: np.clip(x, -1, 1), "hardtanh", kinks=[-1, 1])
    edge = edge_of_chaos(hard, SQUARE)
    assert fixed_point(hard, edge, SQUARE).chi == pytest.approx(1, abs=1e-8)
    assert edge < edge_of_chaos("tanh", SQUARE)


def test_the_diagram_is_its_points():
    table = phase_diagram("tanh", [0.5, 2.5, 4.0], [0.0, 0.2])
    assert list(table.columns) == [
        "weight_variance", "bias_variance", "variance", "correlation", "drift_ratio", "chi", "phase",
    ]  # fmt: skip
    assert table["weight_variance"].tolist() == [0.5, 0.5, 2.5, 2.5, 4, 4]
    for row in table.itertuples():
        alone = fixed_point("tanh", row.weight_variance, row.bias_variance)
        assert row.phase == alone.phase
        assert [row.variance, row.correlation, row.drift_ratio, row.chi] == pytest.approx(
            [alone.variance, alone.correlation, alone.drift_ratio, alone.chi], rel=1e-7, nan_ok=True
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_a_diagram(name):
    table = phase_diagram(name, np.linspace(0.1, 4, 5), [0.0, 0.3])
    assert table["phase"].notna().all()
    known = table["correlation"].notna()
    assert table.loc[known, "correlation"].between(0, 1).all()
    assert (table.loc[~known, "phase"].isin(["vanishing", "undefined"])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fixed_point("tanh", -1, 0), "weight_variance=-1 must be a finite number of at least 0"),
        (lambda: edge_of_chaos("tanh", -0.1), "bias_variance=-0.1 must be"),
        (lambda: neutral_edge("tanh", math.inf), "bias_variance=inf must be"),
        (lambda: phase_diagram("tanh", [1, -2], [0]), "weight_variances=-2 must be"),
        (lambda: phase_diagram("nope", [1], [0]), "activation=nope must be one of"),
        (lambda: phase_diagram("tanh", 2.0, [0]), "weight_variances=2.0 must be a list of numbers"),
        (lambda: phase_diagram("tanh", [1], ["a"]), "bias_variances=a must be a finite number"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_grows_faster_than_a_straight_line_has_a_correlation_of_its_own():
    """E x^2 x'^2 = q^2 (1 + 2 c^2), so that (1 + 2 c^2) / 3 = c at c = 1/2, to which inputs come."""
    found = fixed_point(np.square, 2.0, 0.1)
    assert (found.variance, found.chi) == (math.inf, math.inf)
    assert found.correlation == pytest.approx(0.5)
    assert found.drift_ratio == pytest.approx(1)


@pytest.mark.parametrize("weight_variance", [200.0, 2000.0, 1e5])
def test_far_in_chaos_there_is_a_fixed_point(weight_variance):
    """Where tanh is the sign function, whose arcsine keeps 1 - c as small as biases make it."""
    found = fixed_point("tanh", weight_variance, 0.1)
    share = 1 - found.correlation
    q = found.variance
    assert q == pytest.approx(weight_variance, rel=0.1)
    within, _ = ACTIVATIONS["tanh"].split(np.array([q * share]), np.array([q * (1 - share)]))
    assert weight_variance * within.item() == pytest.approx(q * share, rel=1e-6)
    assert found.phase == "neutral"


def test_a_line_that_keeps_what_inputs_have_apart_comes_to_one_correlation():
    """V stays as it is, and every layer adds the bias variance to T."""
    deep = propagate("linear", 1.0, 0.1, 300)
    assert deep.drift_ratio[-1] == pytest.approx(30)
    found = fixed_point("linear", 1.0, 0.1)
    assert (found.phase, found.correlation, found.drift_ratio) == ("edge of chaos", 1.0, math.inf)
