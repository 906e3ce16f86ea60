"""The figures of docs/theory.md: that they can be made, and that what they show is there."""

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats

from igb._paths import config_folder
from igb.theory import guesses, propagate
from igb.theory.propagation import NORMS
from reproduction import claims, theory
from reproduction.common import fill, read

FOLDER = config_folder().parent / "docs" / "theory"
STAGES = FOLDER.parent / "reproduction"
TABLES = ("depths", "phases", "norms", "guesses", "resnet50")


@pytest.mark.slow
def test_they_are_measured_and_drawn(tmp_path, monkeypatch):
    small = {
        "INPUTS": 40, "SIZE": 5, "WIDTH": 30, "SEEDS": range(2), "DEPTH": 5, "NETWORKS": 6, "SHALLOW": 4, "IMAGES": 20,
        "WEIGHTS": {"tanh": (1.0, 3.0), "relu": (1.0, 3.0)}, "BIASES": (0.1, 0.5), "RATIOS": (0.2, 1.0, 2.0),
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(theory, name, value)
    monkeypatch.setattr(claims, "WIDTH", 20)
    monkeypatch.setattr(claims, "IMAGES", 20)
    monkeypatch.setattr(theory, "FINE", 3)
    theory.measure_all(tmp_path, ["data=digits"], ["data=digits"], networks=2)
    theory.draw_all(tmp_path, {**read(tmp_path), **read(STAGES)})
    tables = (*TABLES, "correlations", "networks")
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"{name}.csv" for name in tables), *(f"{name}.png" for name in (*TABLES, *claims.FIGURES))
    }  # fmt: skip
    for name in tables:
        assert list(pd.read_csv(tmp_path / f"{name}.csv")) == list(pd.read_csv(FOLDER / f"{name}.csv"))
    traced = pd.read_csv(tmp_path / "resnet50.csv")
    assert traced.groupby(["seed", "batch_norm"]).size().tolist() == [54] * 4


def test_correlations_of_networks_lie_on_the_lines():
    table = pd.read_csv(FOLDER / "depths.csv")
    for (activation, weight, bias), part in table.groupby(["activation", "weight_variance", "bias_variance"]):
        measured = part.groupby("layer")["correlation"].mean().to_numpy()
        expected = propagate(activation, weight, bias, theory.DEPTH).correlation[:-1]
        assert np.abs(measured - expected).max() < 0.06


def test_measured_networks_fall_into_the_phases_of_the_diagram():
    for row in pd.read_csv(FOLDER / "phases.csv").itertuples():
        found = propagate(row.activation, row.weight_variance, row.bias_variance, theory.DEPTH)
        assert row.correlation == pytest.approx(found.correlation[-2], abs=0.08)


def test_guess_fractions_have_the_predicted_distribution():
    """Counted on as many images, of which all may be in one class."""
    for ratio, part in pd.read_csv(FOLDER / "guesses.csv").groupby("drift_ratio"):
        expected = guesses(ratio, 2).sample(50_000, images=theory.INPUTS)[:, 0]
        assert len(part) == theory.NETWORKS
        assert stats.ks_2samp(part["guess_fraction"], expected).statistic < 0.09


def test_norms_do_what_the_theory_says():
    table = pd.read_csv(FOLDER / "norms.csv")
    for norm in NORMS:
        measured = table[table["norm"] == norm].groupby("layer")["drift_ratio"].mean().to_numpy()
        expected = propagate("relu", *theory.NORM_AT, theory.DEPTH, norm=norm).drift_ratio[:-1]
        np.testing.assert_allclose(measured, expected, rtol=0.35)


def test_the_bias_of_a_resnet_arises_in_its_blocks_with_running_statistics_alone():
    table = pd.read_csv(FOLDER / "resnet50.csv")
    last = table.groupby(["batch_norm", "seed"])["drift_ratio"].last().unstack()
    first = table.groupby(["batch_norm", "seed"])["drift_ratio"].first().unstack()
    assert (last.loc["running"] > 5 * first.loc["running"]).all()
    assert (last.loc["running"] > 5 * last.loc["batch"]).all()


def test_the_tables_and_numbers_of_the_page_are_those_of_the_files():
    page = (FOLDER.parent / "theory.md").read_text()
    frames = {**read(FOLDER), **read(STAGES)}
    tables = {name: tabulate(frames) for name, tabulate in claims.TABLES.items()}
    assert fill(page, tables, claims.numbers(frames)) == page
    assert page.count("<!-- table: ") == len(claims.TABLES)


def test_the_runs_that_train_are_at_the_points_of_untrained_networks():
    points = {(w, b) for w, b in claims.POINTS[claims.TRAINED[0]] if b == claims.TRAINED[1]}
    for stage in claims.STAGES:
        config = OmegaConf.load(config_folder() / "experiment" / "reproduction" / f"{stage}.yaml")
        weights = config.hydra.sweeper.params["init.weight_variance"].split(",")
        assert points == {(float(weight), config.init.bias_variance) for weight in weights}
        assert (config.model.depth, config.model.width) == (claims.DEPTHS[-1], claims.WIDTH)
        assert config.model.activation == claims.TRAINED[0]
