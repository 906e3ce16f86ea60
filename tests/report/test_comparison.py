import json
import math
import re

import pandas as pd
import pytest

from igb import report
from igb.report.comparison import compared, quantities, scatters
from igb.report.figures import comparison, memorisation
from igb.report.runs import find_runs
from igb.report.settings import panels
from igb.report.verdict import of_wrong_labels
from tests.helpers.runs import made_run

LEAVES = [(0, 0.9, 0.1, 0.9), (4, 0.6, 0.5, 0.55), (8, 0.5, 0.7, 0.45)]
STAYS = [(0, 1.0, 0.0, 1.0), (4, 1.0, 0.0, 1.0), (8, 1.0, 0.1, 0.95)]


def a_run(folder, loss, seed=0, rows=LEAVES, **entries):
    return made_run(
        folder / f"{loss}-{seed}", rows, overrides=[f"loss={loss}", f"seed={seed}"], started=f"{loss}{seed}",
        seeds={"seed": seed}, config={"seed": seed, "loss": {"name": loss}}, **entries,
    )  # fmt: skip


def read(folder):
    return panels(find_runs([folder])[0])


@pytest.fixture
def spectrum(tmp_path):
    """Three losses of two seeds, from one that lets everything through to one that pushes the wrong way."""
    for seed in (0, 1):
        a_run(tmp_path, "ce", seed, weight=1)
        a_run(tmp_path, "gce", seed, weight=0.01 * (1 + seed))
        a_run(tmp_path, "worse", seed, STAYS, weight=-0.1)
    return tmp_path


def test_a_run_stands_at_its_weight_escape_step_and_accuracy(spectrum):
    escape, accuracy = scatters(read(spectrum), threshold=0.6)
    assert [escape.title, accuracy.title] == ["escape step", "mean accuracy at the end"]
    assert [point.setting for point in escape.points] == [0, 0, 1, 1, 2, 2]
    assert [point.escaped for point in escape.points] == [True] * 4 + [False] * 2
    x = [point.x for point in escape.points]
    assert x[4] == x[5] == 0  # the least weight is at the left, the largest at the right
    assert x[0] == x[1] == 1
    at = {label: place for place, label in escape.x_ticks}
    assert list(at) == ["-0.1", "-0.01", "0", "0.01", "0.1", "1"]
    assert x[2] == pytest.approx(at["0.01"])
    assert at["0"] - at["-0.01"] == pytest.approx(at["0.01"] - at["0"])
    steps = {label: place for place, label in escape.y_ticks}
    assert list(steps) == ["0", "1", "8"]
    assert [point.y for point in escape.points] == pytest.approx([math.log(5) / math.log(9)] * 4 + [1] * 2)
    assert [point.y for point in accuracy.points] == pytest.approx([1] * 4 + [0.55 / 0.6] * 2)
    assert escape.points[4].text == "loss=worse, seed=0: weight -0.1, escape step >8, mean accuracy 0.55"


@pytest.mark.parametrize("weights", [(1, 1), (None, None), (math.nan, math.nan)], ids=["equal", "older", "nan"])
def test_there_is_no_scatter_where_weights_tell_nothing_apart(tmp_path, weights):
    for loss, weight in zip(("ce", "focal"), weights, strict=True):
        a_run(tmp_path, loss, weight=weight)
    assert scatters(read(tmp_path), threshold=0.6) == []


def test_a_run_without_a_weight_is_left_out_of_the_scatter(tmp_path):
    a_run(tmp_path, "ce", weight=1)
    a_run(tmp_path, "old")
    a_run(tmp_path, "pz", weight=0.2)
    assert [point.setting for point in scatters(read(tmp_path), threshold=0.6)[0].points] == [0, 2]


def test_settings_are_compared_by_batch_norm_mode(spectrum):
    for file in spectrum.glob("*/metrics.csv"):
        header, *rows = file.read_text().splitlines(keepends=True)
        file.write_text("".join([header, *rows, *(row.replace("running", "batch") for row in rows)]))
    found = read(spectrum)
    labels, modes = compared(found)
    assert labels == ["loss=ce", "loss=gce", "loss=worse"]
    assert {mode: list(of_mode) for mode, of_mode in modes.items()} == {"running": [0, 1, 2], "batch": [0, 1, 2]}
    assert [one.title for one in scatters(found, 0.6)] == [
        f"{name} ({mode} statistics)"
        for mode in ("running", "batch")
        for name in ("escape step", "mean accuracy at the end")
    ]


def test_wrong_labels_are_compared_where_there_are_some(finished, tmp_path):
    assert quantities(panels(find_runs([finished])[0])) == ["dominance", "mean_accuracy"]
    a_run(tmp_path, "ce", wrong=[(0.1, 0.1), (0.2, 0.7), (0.6, 0.3)])
    assert quantities(read(tmp_path)) == ["dominance", "mean_accuracy", "wrong.predicted_given", "wrong.predicted_true"]


def test_the_figure_has_a_line_for_each_setting_and_a_point_for_each_run(spectrum):
    found = read(spectrum)
    dominance, accuracy, *scattered = comparison(found, scatters(found, 0.6)).axes
    assert [len(axes.lines) for axes in (dominance, accuracy)] == [4, 4]  # and that at the end of epoch one
    assert dominance.lines[2].get_ydata().tolist() == pytest.approx([1, 1, 0.95])
    assert accuracy.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.55, 0.6])
    assert [len(axes.lines) for axes in scattered] == [6, 6]
    hollow = [line.get_markerfacecolor() == "none" for line in scattered[0].lines]
    assert hollow == [False] * 4 + [True] * 2


def drawn(folder, name="data"):
    text = (folder / "report" / "index.html").read_text()
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.usefixtures("undrawn")
def test_the_page_has_one_chart_of_all_settings_and_a_point_for_each_run(spectrum):
    report.write([spectrum], threshold=0.6)
    data = drawn(spectrum)
    assert data["settings"] == ["loss=ce", "loss=gce", "loss=worse"]
    assert data["modes"] == {"running": {"0": 0, "1": 1, "2": 2}}
    assert list(data["overall"]) == ["dominance", "mean_accuracy"]
    assert data["panels"][2]["overall"] == {"dominance": [1, 1, 0.95], "mean_accuracy": [0.5, 0.5, 0.55]}
    page = (spectrum / "report" / "index.html").read_text()
    points = re.findall(r'<b data-setting="(\d)" class="([^"]*)"[^>]*title="([^"]*)"', page)
    assert len(points) == 12
    assert points[4][:2] == ("2", "mark-0 hollow")


def test_a_weight_without_bound_does_not_push_the_others_together(spectrum):
    a_run(spectrum, "anl", weight=6e4)
    a_run(spectrum, "zz", weight=-1e149)
    escape, _ = scatters(read(spectrum), threshold=0.6)
    at = dict(reversed(tick) for tick in escape.x_ticks)
    assert list(at) == ["-10", "-1", "-0.1", "-0.01", "0", "0.01", "0.1", "1", "10", "100"]
    places = {point.text.split(",")[0]: point.x for point in escape.points}
    assert (places["loss=zz"], places["loss=anl"]) == (0, 1)
    assert places["loss=ce"] == pytest.approx(at["1"])
    assert min(right - left for left, right in zip(list(at.values()), list(at.values())[1:], strict=False)) > 0.05


def test_noise_of_rate_0_has_nothing_that_is_memorised(tmp_path):
    folder = a_run(tmp_path, "ce", wrong=[(0.1, 0.1), (0.2, 0.7), (0.6, 0.3)])
    table = pd.read_csv(folder / "memorisation.csv")
    table.loc[table["labels"] == "wrong", table.columns[4:]] = [0, *[float("nan")] * 6]
    table.to_csv(folder / "memorisation.csv", index=False, na_rep="nan")
    found = read(tmp_path)
    assert not found[0].has_wrong_labels
    assert of_wrong_labels(found) == []
    assert "memorised" not in report.summarize(find_runs([tmp_path])[0])


@pytest.mark.usefixtures("undrawn")
def test_one_setting_has_nothing_beside_it(tmp_path):
    a_run(tmp_path, "ce", weight=1)
    report.write([tmp_path])
    assert 'id="comparison"' not in (tmp_path / "report" / "index.html").read_text()
    assert not (tmp_path / "report" / "comparison.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_wrong_labels_are_drawn_summarized_and_put_in_words(tmp_path):
    a_run(tmp_path, "ce", 0, wrong=[(0.1, 0.1), (0.2, 0.7), (0.6, 0.3)])
    a_run(tmp_path, "ce", 1, wrong=[(0.1, 0.1), (0.2, 0.7), (0.8, 0.2)])
    a_run(tmp_path, "clean", 0)
    report.write([tmp_path], threshold=0.6)
    assert (tmp_path / "report" / "memorisation.png").exists()
    noisy, clean, *_ = drawn(tmp_path)["panels"]
    assert noisy["labels"]["steps"] == [0, 4, 8]
    assert noisy["labels"]["wrong"][0] == [0.1, 0.2, 0.7]  # predicted as labelled, the mean over seeds
    assert noisy["labels"]["clean"][0] == [1, 1, 1]
    assert noisy["labels"]["clean"][1] == [None] * 3  # what they are is what they are labelled
    assert "labels" not in clean
    summary = pd.read_csv(tmp_path / "report" / "summary.csv")
    assert summary["memorised"].tolist()[:2] == [0.6, 0.8]
    assert summary["recovered"].isna().tolist() == [False, False, True]
    settings = pd.read_csv(tmp_path / "report" / "settings.csv")
    assert settings.loc[0, ["memorised", "memorised_low", "memorised_high"]].tolist() == pytest.approx([0.7, 0.6, 0.8])
    found = read(tmp_path)
    ((_, words),) = of_wrong_labels(found)  # of the clean runs nothing
    assert "Of the training images with wrong labels, 70 % (range 60 to 80 %) are predicted as labelled" in words
    clean_axes, wrong_axes = memorisation(found[:1]).axes
    assert wrong_axes.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.2, 0.7])
    assert (len(clean_axes.lines), len(wrong_axes.lines)) == (5, 7)


@pytest.mark.parametrize(
    ("damage", "steps"),
    [
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], [0, 4]),  # killed between the lines of a probe
        (lambda text: text[:-3], [0, 4]),  # or within one
        (lambda text: text.replace("wrong", "clean", 1), []),
        (lambda text: text.replace("predicted_true", "other"), []),
        (lambda text: text.replace("0.7", "much"), []),
    ],
    ids=["probe", "line", "order", "column", "number"],
)
def test_a_torn_last_probe_of_wrong_labels_is_dropped_and_a_damaged_file_is_not_shown(tmp_path, damage, steps):
    folder = a_run(tmp_path, "ce", wrong=[(0.1, 0.1), (0.2, 0.7), (0.6, 0.3)])
    file = folder / "memorisation.csv"
    file.write_text(damage(file.read_text()))
    run = find_runs([tmp_path])[0][0]
    assert run.overall("wrong.predicted_given", "running").index.tolist() == steps
