import numpy as np
import pytest
from scipy import stats

from igb.report import figures
from igb.report.metrics import Censored
from igb.report.runs import find_runs
from igb.report.settings import bounds_of_rate, mean_and_bounds, mean_and_half_width, panels, settings, swept
from igb.report.summary import summarize_settings
from tests.helpers.runs import ROWS, made_run, sweep


def test_runs_that_differ_only_in_seeds_and_places_are_one_setting(tmp_path):
    (one,) = settings(sweep(tmp_path))
    assert one.label == "loss=pz"
    assert [run.label for run in one.runs] == ["seed=0", "seed=1", "seed=2"]


def test_any_other_difference_is_another_setting(tmp_path):
    sweep(tmp_path / "a", optimizer={"lr": 0.1})
    runs = sweep(tmp_path, seeds=())
    made_run(
        tmp_path / "b", ROWS[0], overrides=["seed=0", "optimizer.lr=0.2"], started="9",
        seeds={"seed": 0}, config={"seed": 0, "optimizer": {"lr": 0.2}},
    )  # fmt: skip
    runs = find_runs([tmp_path])[0]
    assert [(one.label, len(one.runs)) for one in settings(runs)] == [
        ("loss=pz, optimizer.lr=0.1", 3), ("optimizer.lr=0.2", 1),
    ]  # fmt: skip


def test_a_key_that_follows_a_seed_is_no_difference(tmp_path):
    for seed in range(2):
        config = {"seed": seed, "data_seed": "${seed}", "data": {"seed": "${data_seed}"}}
        overrides = [f"seed={seed}"] if seed else []
        made_run(tmp_path / str(seed), ROWS[seed], overrides=overrides, config=config, started=str(seed))
    runs = find_runs([tmp_path])[0]
    assert swept(runs) == []
    assert [(one.label, len(one.runs)) for one in settings(runs)] == [(runs[0].folder.name, 2)]


def test_the_same_seeds_again_are_no_further_sample(tmp_path):
    sweep(tmp_path / "first")
    sweep(tmp_path / "again", seeds=(0,), started="later ")
    found = settings(find_runs([tmp_path])[0])
    assert sorted((one.label, len(one.runs)) for one in found) == [("loss=pz (again)", 1), ("loss=pz (first)", 3)]


def test_what_makes_no_difference_does_not_part_runs(tmp_path):
    for seed in range(2):
        config = {"seed": seed, "optimizer": {"lr": [1, 1.0][seed]}, "trainer": {"checkpoint_minutes": seed}}
        made_run(tmp_path / str(seed), ROWS[0], config=config, seeds={"seed": seed}, started=str(seed))
    (one,) = settings(find_runs([tmp_path])[0])
    assert len(one.runs) == 2


def test_runs_without_a_recorded_config_are_told_apart_by_their_overrides(tmp_path):
    for seed in range(2):
        for loss in ("ce", "pz"):
            overrides = [f"loss={loss}", f"seed={seed}"]
            made_run(tmp_path / f"{loss}{seed}", ROWS[0], overrides=overrides, started=f"{loss}{seed}")
    assert [(one.label, len(one.runs)) for one in settings(find_runs([tmp_path])[0])] == [
        ("loss=ce", 2),
        ("loss=pz", 2),
    ]


def test_runs_from_python_are_told_apart_by_their_configs(tmp_path):
    for index, rate in enumerate((0.1, 0.2)):
        made_run(tmp_path / str(index), ROWS[0], config={"optimizer": {"lr": rate}, "seed": 0}, started=str(index))
    assert [one.label for one in settings(find_runs([tmp_path])[0])] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]


def test_the_interval_is_students(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(5, 3, 2))
    mean, half = mean_and_half_width(values, np.ones((5, 3), dtype=bool))
    low, high = stats.t.interval(0.95, 4, loc=values.mean(axis=0), scale=stats.sem(values, axis=0))
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(mean - half, low)
    np.testing.assert_allclose(mean + half, high)
    _, alone = mean_and_half_width(values[:1], np.ones((1, 3), dtype=bool))
    assert np.isnan(alone).all()


SHAPES = {
    "uniform": (1, 1), "either end": (0.4, 0.4), "near the middle": (50, 50), "low": (1, 6), "near one": (20, 0.5),
}  # of a Beta distribution  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [5, 10, 30])
def test_the_interval_covers_the_mean_of_fractions(shape, n):
    """Some 95 % of the time; less where few runs say little of a long tail. It never leaves 0 to 1."""
    a, b = SHAPES[shape]
    values = np.random.default_rng(0).beta(a, b, size=(n, 1, 20_000))
    _, low, high = mean_and_bounds(values, np.ones((n, 1), dtype=bool), bounded=True)
    assert low.min() >= 0
    assert high.max() <= 1
    covered = ((low <= a / (a + b)) & (a / (a + b) <= high)).mean()
    least = {"low": 0.88, "near one": 0.78, "either end": 0.92}.get(shape, 0.93)
    assert least < covered < 0.97


def test_what_is_not_bounded_is_not_cut_off():
    values = np.array([-3.0, 0, 3, 5, 9])[:, None]
    mean, low, high = (part.item() for part in mean_and_bounds(values, np.ones((5, 1), dtype=bool), bounded=False))
    expected = stats.t.interval(0.95, 4, loc=2.8, scale=stats.sem(values[:, 0]))
    assert (mean, low, high) == (pytest.approx(2.8), pytest.approx(expected[0]), pytest.approx(expected[1]))


@pytest.fixture
def five(tmp_path):
    """Five runs that favour one class, probed at two steps."""
    for seed in range(5):
        rows = [(0, 0.9 + seed / 100, 0.1, 0.9), (4, 0.5 + seed / 50, 0.4, 0.5 + seed / 20)]
        made_run(tmp_path / str(seed), rows, overrides=[f"seed={seed}"], started=str(seed), config={"seed": seed})
    return find_runs([tmp_path])[0]


def test_a_curve_is_over_the_runs_probed_at_each_step(tmp_path):
    (panel,) = panels(sweep(tmp_path), "class")
    curves = panel.curves("probability")
    assert (curves.steps, curves.n) == ([0, 4, 8], [3, 3, 2])
    assert panel.count == "n = 2 to 3"
    assert curves.mean[:, 0].tolist() == pytest.approx([1.9 / 3, 0.5, 0.4])
    assert curves.few
    assert np.isnan(curves.low).all()
    assert curves.each[1].tolist() == [[0, 1], [0.4, 0.7], [0.3, 0.9]]
    assert np.isnan(curves.each[2, 2]).all()


def test_five_runs_have_an_interval(five):
    curves = panels(five)[0].curves("probability")
    values = 0.5 + np.arange(5) / 50
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (curves.low[1, 0], curves.high[1, 0]) == (pytest.approx(low), pytest.approx(high))
    assert not curves.few


def test_panels_are_aligned_where_seeds_favour_different_classes(tmp_path, five):
    runs = sweep(tmp_path / "mixed")
    assert [panel.align for panel in panels(runs)] == ["favoured"]
    assert [panel.align for panel in panels(five)] == ["class"]
    assert [panel.align for panel in panels(runs, "class")] == ["class"]
    assert {panel.align for panel in panels([*runs, *five])} == {"favoured"}  # all alike, as they share a legend


def test_aligned_curves_follow_the_class_that_each_run_favoured(tmp_path):
    (panel,) = panels(sweep(tmp_path), "favoured")
    assert panel.names == ["favoured", "2nd"]
    curves = panel.curves("probability")
    assert curves.mean[0].tolist() == pytest.approx([2.9 / 3, 0.1 / 3])
    assert curves.mean[1].tolist() == pytest.approx([(0.6 + 0.7 + 0.5) / 3, (0.5 + 0.4 + 0.6) / 3])


def test_figure_2_draws_the_mean_and_its_band(five):
    drawn = panels(five, "favoured")
    figure = figures.over_training(drawn, figures.FIGURE_2)
    axes, curves = figure.axes[0], drawn[0].curves("probability")
    assert axes.get_ylabel().endswith("\nn = 5")
    assert figure.legends[0].get_title().get_text() == "mean and 95 % interval over seeds, n = 5"
    for k in range(2):
        assert axes.lines[k].get_ydata().tolist() == curves.mean[:, k].tolist()
        (outline,) = axes.collections[k].get_paths()
        heights = outline.vertices[:, 1]
        assert heights.max() == pytest.approx(curves.high[:, k].max())
        assert heights.min() == pytest.approx(curves.low[:, k].min())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["favoured", "2nd"]


def test_figure_2_draws_few_seeds_one_by_one(tmp_path):
    drawn = panels(sweep(tmp_path))
    figure = figures.over_training(drawn, figures.FIGURE_2)
    axes, curves = figure.axes[0], drawn[0].curves("probability")
    assert axes.get_ylabel() == "loss=pz\nn = 2 to 3"
    assert figure.legends[0].get_title().get_text() == "a thin line is a seed, n = 2 to 3"
    assert not axes.collections
    lines = [line.get_ydata().tolist() for line in axes.lines[:6]]
    expected = [curves.each[run, :, k] for k in range(2) for run in range(3)]
    assert lines == [line[~np.isnan(line)].tolist() for line in expected]


def test_figure_1_draws_the_mean_and_its_interval(five):
    drawn = panels(five, "favoured")
    (axes,) = figures.figure1(drawn).axes
    curves = drawn[0].curves("probability")
    assert [patch.get_height() for patch in axes.patches[:2]] == curves.mean[0].tolist()
    segments = axes.containers[2].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [
        pytest.approx([curves.low[0, k], curves.high[0, k]]) for k in range(2)
    ]


def test_figure_1_draws_a_dot_for_each_of_few_seeds(tmp_path):
    (axes,) = figures.figure1(panels(sweep(tmp_path))).axes
    assert axes.lines[0].get_ydata().tolist() == [1.0, 0.0, 1.0, 0.0, 0.9, 0.1]


def test_a_setting_has_means_bounds_and_medians(tmp_path, five):
    row = summarize_settings(sweep(tmp_path / "few"), threshold=0.6).iloc[0]
    assert (row["setting"], row["n"], row["escaped"]) == ("loss=pz", 3, 1)
    assert row[["escape_rate", "escape_rate_low", "escape_rate_high"]].tolist() == [1 / 3, *bounds_of_rate(1, 3)]
    assert row["escape_step"] == Censored(8)  # of 8, >4 and >8
    assert row["dominance_end"] == pytest.approx((0.55 + 0.9 + 0.6) / 3)
    assert (row["dominance_end_low"], row["dominance_end_high"]) == (0.55, 0.9)  # the least and the largest
    row = summarize_settings(five).iloc[0]
    values = 0.5 + np.arange(5) / 20
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (row["dominance_end_low"], row["dominance_end_high"]) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_bounds_of_a_rate_are_exact(n):
    for count in range(n + 1):
        exact = stats.binomtest(count, n).proportion_ci(method="exact")
        assert bounds_of_rate(count, n) == pytest.approx((exact.low, exact.high))


def test_ranks_read_as_english(tmp_path):
    names = [str(k) for k in range(23)]
    (panel,) = panels(sweep(tmp_path), "favoured")
    panel.runs[0].info["class_names"] = names
    assert [panel.names[k] for k in (0, 1, 2, 3, 10, 11, 12, 20, 21, 22)] == [
        "favoured", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd",
    ]  # fmt: skip
