import math

import pytest
from matplotlib.colors import to_hex

from igb import report
from igb.report import figures
from igb.report.regime import MEASURES, regime_maps
from igb.report.runs import find_runs
from tests.helpers.runs import made_run

pytestmark = pytest.mark.usefixtures("undrawn")


def grid(folder, *, momenta=(0,), losses=("ce", "pz"), rates=(0.1, 0.01), seeds=(0, 1)):
    for loss in losses:
        for rate in rates:
            for momentum in momenta:
                for seed in seeds:
                    end = 0.9 if loss == "pz" and rate == 0.01 else 0.55
                    overrides = [f"loss={loss}", f"optimizer.lr={rate}", f"momentum={momentum}", f"seed={seed}"]
                    config = {"loss": loss, "lr": rate, "momentum": momentum, "seed": seed}
                    made_run(
                        folder / "-".join(overrides), [(0, 1, 0, 1), (2 + 2 * seed, 0.6, 0.4, end), (8, 0.6, 0.2, end)],
                        overrides=overrides, config=config, seeds={"seed": seed},
                    )  # fmt: skip
    return find_runs([folder])[0]


def test_the_map_is_over_the_two_keys_that_were_swept(tmp_path):
    (one,) = regime_maps(grid(tmp_path), threshold=0.6)
    assert (one.x_key, one.y_key, one.title) == ("optimizer.lr", "loss", "")
    assert (one.x_values, one.y_values) == (["0.01", "0.1"], ["ce", "pz"])
    texts = {measure: [[cell.text for cell in line] for line in one.cells[measure]] for measure in MEASURES}
    assert texts["escape_step"] == [["3", "3"], [">8", "3"]]  # the median of 2 and 4
    assert texts["dominance_end"] == [["0.55", "0.55"], ["0.90", "0.55"]]
    assert texts["mean_accuracy"] == [["0.40", "0.40"]] * 2
    assert texts["worst_accuracy"] == [["0.20", "0.20"]] * 2


def test_other_keys_make_a_map_each(tmp_path):
    maps = regime_maps(grid(tmp_path, momenta=(0, 0.9), rates=(0.1, 0.01, 0.001)))
    assert [one.title for one in maps] == ["loss=ce", "loss=pz"]
    assert (maps[0].x_key, maps[0].y_key) == ("optimizer.lr", "momentum")


def test_a_setting_that_was_not_run_is_a_gap(tmp_path):
    grid(tmp_path, losses=("ce",))
    (one,) = regime_maps(grid(tmp_path, losses=("pz",), rates=(0.001,)))
    assert one.x_values == ["0.001", "0.01", "0.1"]
    assert [[cell is None for cell in line] for line in one.cells["mean_accuracy"]] == [
        [True, False, False], [False, True, True],
    ]  # fmt: skip


def test_one_key_makes_no_map(tmp_path):
    assert regime_maps(grid(tmp_path, losses=("ce",))) == []


def test_the_figure_draws_the_cells(tmp_path):
    maps = regime_maps(grid(tmp_path), threshold=0.6)
    axes = figures.regime_map(maps).axes
    assert [one.get_title() for one in axes] == list(MEASURES.values())
    cells = [cell for line in maps[0].cells["escape_step"] for cell in line]
    assert [text.get_text() for text in axes[0].texts] == [cell.text for cell in cells]
    assert [to_hex(patch.get_facecolor()) for patch in axes[0].patches] == [cell.colour for cell in cells]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["ce", "pz"]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["0.01", "0.1"]


def test_colours_follow_the_values_and_text_stands_out(tmp_path):
    (one,) = regime_maps(grid(tmp_path), threshold=0.6)
    cells = one.cells["escape_step"]
    assert cells[1][0].colour == "#440154"  # what has not escaped is the darkest
    assert cells[1][0].ink == "#ffffff"
    assert cells[0][0].colour == cells[0][1].colour != cells[1][0].colour


def test_broken_ends_have_no_number(tmp_path):
    for loss in ("ce", "pz"):
        for rate in (0.1, 0.2):
            made_run(
                tmp_path / f"{loss}{rate}", [(0, 1, 0, 1), (8, *[math.nan] * 3)],
                overrides=[f"loss={loss}", f"lr={rate}"], config={"loss": loss, "lr": rate},
            )  # fmt: skip
    (one,) = regime_maps(find_runs([tmp_path])[0])
    assert one.cells["dominance_end"][0][0].text == "-"
    assert one.cells["escape_step"][0][0].text == ">8"


def test_values_may_be_lists_and_null(tmp_path):
    for images in ("null", "500", "20"):
        for widths in ("[1]", "[2,3]"):
            made_run(
                tmp_path / f"{images}{widths}",
                [(0, 1, 0, 1)],
                overrides=[f"images={images}", f"widths={widths}", "x=1"],
            )
    (one,) = regime_maps(find_runs([tmp_path])[0])
    assert (one.x_values, one.y_values) == (["20", "500", "null"], ["[1]", "[2, 3]"])


def test_a_random_search_makes_no_map_but_a_note(tmp_path, capsys):
    for index in range(12):
        made_run(tmp_path / str(index), [(0, 1, 0, 1)], overrides=[f"{key}={index / 7}" for key in "abc"])
    report.write([tmp_path])
    assert "there is no regime map: a, b, c were not swept over a grid" in capsys.readouterr().out
    assert not (tmp_path / "report" / "regime_map.png").exists()


def test_maps_are_of_each_batch_norm_mode(tmp_path):
    for rate in (0.1, 0.2):
        for other in (1, 2):
            folder = made_run(
                tmp_path / f"{rate}{other}", [(0, 1, 0, 1)], overrides=[f"lr={rate}", f"x={other}"],
                config={"lr": rate, "x": other},
            )  # fmt: skip
            text = (folder / "metrics.csv").read_text()
            rows = "".join(line.replace("running", "batch") for line in text.splitlines(keepends=True)[1:])
            (folder / "metrics.csv").write_text(text + rows)
    assert [one.title for one in regime_maps(find_runs([tmp_path])[0])] == ["running statistics", "batch statistics"]
