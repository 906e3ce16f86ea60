"""The theory beside runs that it covers."""

import math
import re

import pandas as pd
import pytest

from igb import report, theory
from igb.report import figures
from igb.report.prediction import axis, drift_ratio_of, predictions
from igb.report.regime import regime_maps
from igb.report.runs import find_runs
from igb.report.settings import panels
from igb.report.verdict import of_theory
from tests.helpers.runs import made_run

MODEL = {"_target_": "igb.models.MLP", "depth": 3, "activation": "tanh", "norm": "none", "residual": False}
RULE = {"_target_": "igb.initialization.mean_field", "weight_variance": 2.0, "bias_variance": 0.1}
INPUTS = {"variance": 0.8, "correlation": 0.3}


def a_run(folder, weights=2.0, biases=0.1, depth=3, seed=0, guess=0.8, **entries):
    options = {"init.weight_variance": weights, "init.bias_variance": biases, "model.depth": depth, "seed": seed}
    config = {
        "seed": seed, "model": MODEL | {"depth": depth} | entries.pop("model", {}),
        "init": entries.pop("rule", None)
        or RULE | {"weight_variance": weights, "bias_variance": biases} | entries.pop("init_config", {}),
    }  # fmt: skip
    name = ",".join(f"{key}={value}" for key, value in options.items())
    overrides = name.split(",")
    return made_run(
        folder / name, [(0, 0.5, 0.5, guess), (4, 0.5, 0.5, 0.6)], overrides=overrides, config=config,
        seeds={"seed": seed}, started=name, **({"inputs": INPUTS} | entries),
    )  # fmt: skip


def read(folder):
    return find_runs([folder])[0]


def test_a_run_is_predicted_from_its_config_and_its_inputs(tmp_path):
    a_run(tmp_path)
    (run,) = read(tmp_path)
    expected = theory.propagate("tanh", 2.0, 0.1, 4, 0.3, 0.8).drift_ratio[-1]
    assert drift_ratio_of(run, "running") == pytest.approx(expected)
    row = report.summarize([run]).iloc[0]
    assert row["drift_ratio_theory"] == pytest.approx(expected)
    assert row["dominance_theory"] == pytest.approx(theory.guesses(expected, 2).mean_dominance)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"init": {"weight_variance": 3.0}}, {"weight_variance": 3.0}),
        ({"init_config": {"relative_to_edge": True}}, {"weight_variance": 2 * theory.edge_of_chaos("tanh", 0.1)}),
        ({"model": {"norm": "layer_before", "residual": True}}, {"norm": "layer_before", "residual": True}),
        ({"model": {"norm": "batch_before"}}, {}),  # untouched running statistics are the identity
        ({"model": {"norm": "batch_before"}, "init_config": {"calibrate": True}}, {"norm": "batch_before"}),
        ({"rule": {"_target_": "igb.initialization.he"}}, {"bias_variance": 0.0}),
    ],
    ids=["dial", "edge", "layer norm", "batch norm", "calibrated", "he"],
)
def test_what_the_run_was_drawn_as_counts(tmp_path, entries, expected):
    a_run(tmp_path, **entries)
    options = {"weight_variance": 2.0, "bias_variance": 0.1, "correlation": 0.3, "variance": 0.8} | expected
    found = theory.propagate("tanh", depth=4, **options).drift_ratio[-1]
    assert drift_ratio_of(read(tmp_path)[0], "running") == pytest.approx(found)


@pytest.mark.parametrize(
    "entries",
    [
        {"model": {"_target_": "igb.models.CNN"}}, {"init_config": {"_target_": "igb.initialization.own"}},
        {"init_config": {"target_dominance": 0.5}}, {"init_config": {"center": True}}, {"inputs": None},
        {"inputs": "torn"}, {"inputs": {"variance": 0.8}}, {"model": {"activation": "mine"}},
        {"model": {"depth": None}},
    ],
    ids=["network", "rule", "chosen", "centred", "older", "torn", "half", "activation", "depth"],
)  # fmt: skip
def test_other_runs_are_not_covered(tmp_path, entries):
    a_run(tmp_path, **entries)
    runs = read(tmp_path)
    assert drift_ratio_of(runs[0], "running") is None
    assert predictions(panels(runs)) == []
    assert "dominance_theory" not in report.summarize(runs)


def test_the_figure_has_a_line_of_the_theory_and_a_point_for_each_setting(tmp_path):
    for weights in (1.0, 2.0, 3.0):
        for depth in (3, 6):
            for seed in range(5):
                a_run(tmp_path, weights, depth=depth, seed=seed, guess=0.7 + seed / 50)
    found = predictions(panels(read(tmp_path)))
    along = axis(found)
    assert along.key == "init.weight_variance"
    assert list(along.lines) == ["model.depth=3", "model.depth=6"]
    for depth, line in zip((3, 6), along.lines.values(), strict=True):
        assert [place for place, _ in line] == [1, 2, 3]
        for weights, one in line:
            expected = theory.propagate("tanh", weights, 0.1, depth + 1, 0.3, 0.8).drift_ratio[-1]
            assert one.dominance == pytest.approx(theory.guesses(expected, 2).mean_dominance)
            assert one.measured == pytest.approx([0.7, 0.72, 0.74, 0.76, 0.78])
    left, right = figures.theory(found).axes
    lines = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert [line.get_label() for line in lines] == ["model.depth=3", "model.depth=6"]
    assert lines[0].get_ydata().tolist() == [one.dominance for _, one in along.lines["model.depth=3"]]
    assert sum(patch.get_height() * patch.get_width() for patch in right.patches if hasattr(patch, "get_height")) == (
        pytest.approx(1)
    )


def test_runs_without_the_key_of_an_axis_do_not_break_it(tmp_path):
    for biases in (0.05, 0.5):
        a_run(tmp_path, 2.0, biases)
        a_run(tmp_path, 3.0, biases)
    a_run(tmp_path, 4.0, 0.2, rule={"_target_": "igb.initialization.he"})
    for file in tmp_path.glob("*4.0*/.hydra/overrides.yaml"):
        file.write_text('["init=he", "seed=0"]')
    runs = read(tmp_path)
    found = predictions(panels(runs))
    assert len(found) == 5
    assert axis(found) is None
    assert len(figures.theory(found).axes) == 2
    assert all(one.edges == {} for one in regime_maps(runs))


def test_the_page_has_the_picture_and_the_tables_the_numbers(tmp_path, undrawn):
    for seed in range(3):
        a_run(tmp_path, seed=seed)
    report.write([tmp_path])
    ((_, words),) = of_theory(panels(read(tmp_path)))
    ratio = theory.propagate("tanh", 2.0, 0.1, 4, 0.3, 0.8).drift_ratio[-1]
    assert f"Expected are a drift ratio of {ratio:.3g} at initialisation" in words
    page = (tmp_path / "report" / "index.html").read_text()
    assert re.search(r'<img alt="Dominance at initialisation[^>]*src="data:image/png;base64,[\w+/=]{1000}', page)
    assert '<a href="#theory">' in page
    assert (tmp_path / "report" / "theory.pdf").exists()
    settings = pd.read_csv(tmp_path / "report" / "settings.csv")
    assert settings["dominance_start"].tolist() == pytest.approx([0.8])
    assert settings["dominance_theory"].notna().all()


def test_a_map_over_the_plane_has_the_edges(tmp_path):
    for weights in (1.0, 2.0, 3.0, 4.0):
        for biases in (0.05, 0.2, 0.5):
            a_run(tmp_path, weights, biases)
    (one,) = regime_maps(read(tmp_path))
    assert (one.x_key, one.y_key) == ("init.weight_variance", "init.bias_variance")
    assert set(one.edges) == {"edge of chaos", "neutral edge"}
    x, y = one.edges["edge of chaos"][0]
    assert y == 0
    assert x == pytest.approx(theory.edge_of_chaos("tanh", 0.05) - 1)  # in cells, of one to a variance
    axes = figures.regime_map([one]).axes[0]
    assert [line.get_label() for line in axes.lines] == ["edge of chaos", "neutral edge"]


@pytest.mark.slow
def test_the_page_draws_the_edges_into_its_maps(tmp_path):
    for weights in (1.0, 2.0, 3.0, 4.0):
        for biases in (0.05, 0.5):
            a_run(tmp_path, weights, biases)
    report.write([tmp_path])
    (one,) = regime_maps(read(tmp_path))
    x, y = one.edges["edge of chaos"][0]
    page = (tmp_path / "report" / "index.html").read_text()
    assert f'<polyline class="edge" points="{x:.3f},{y:.3f} ' in page
    assert page.count("<svg aria-hidden") == len(one.cells)
    assert "edge of chaos (solid), neutral edge (dashed)" in page


@pytest.mark.parametrize(
    "other",
    [{"rule": RULE | {"relative_to_edge": True}}, {"model": {"norm": "layer_before"}}, {"model": {"residual": True}}],
)
def test_a_map_of_other_networks_has_no_edges(tmp_path, other):
    for weights in (1.0, 2.0, 3.0):
        for biases in (0.05, 0.2):
            options = dict(other)
            if "rule" in options:
                options["rule"] = options["rule"] | {"weight_variance": weights, "bias_variance": biases}
            a_run(tmp_path, weights, biases, **options)
    (one,) = regime_maps(read(tmp_path))
    assert one.edges == {}


def test_an_infinite_drift_ratio_is_drawn_too(tmp_path):
    for weights in (1.0, 2.0):
        a_run(tmp_path, weights, inputs={"variance": 1.0, "correlation": 1.0})
    found = predictions(panels(read(tmp_path)))
    assert [one.drift_ratio for one in found] == [math.inf] * 2
    assert [one.dominance for one in found] == [1, 1]
    figures.theory(found)
    ((_, words),) = of_theory([found[0].panel])
    assert "drift ratio of inf" in words
