import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import igb
from igb import report
from igb._checks import InputError
from igb._plots import COLOURS
from igb.folder import lock, state
from igb.folder.schema import METRICS
from igb.report import figures
from igb.report.landscape import loss_curves
from igb.report.metrics import Censored
from igb.report.runs import find_runs, read_metrics
from igb.report.settings import panels
from tests.conftest import tiny_run
from tests.helpers.runs import HEADER, made_run


@pytest.fixture
def runs(finished):
    return find_runs([finished])[0]


def test_runs_are_named_by_what_tells_them_apart(runs):
    assert [run.label for run in runs] == ["loss=ce", "loss=bl", "loss=pz"]  # in the order they started


def test_figure_1_shows_both_means_at_initialisation(runs):
    figure = figures.figure1(panels(runs))
    drawn = [axes for axes in figure.axes if axes.patches]
    assert len(drawn) == 6  # three runs in two modes
    expected = runs[0].metrics.query("step == 0 and batch_norm == 'running'")
    heights = [patch.get_height() for patch in drawn[0].patches]
    assert heights == [*expected["probability"], *expected["mean_probability"]]
    assert [label.get_text() for label in drawn[3].get_xticklabels()] == list("0123456789")
    colours = [to_hex(patch.get_facecolor()) for patch in drawn[0].patches[:10]]
    assert colours == [colour.lower() for colour in COLOURS]
    edges = [to_hex(patch.get_edgecolor()) for patch in drawn[0].patches[10:]]
    assert edges == colours
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "over the images of the class",
        "over all images",
    ]


def test_figure_2_shows_probability_and_accuracy_of_every_class(runs):
    figure = figures.over_training(panels(runs), figures.FIGURE_2)
    grid = np.array(figure.axes).reshape(6, 2)
    pairs = [(one, mode) for one in runs for mode in one.modes]
    for row, (run, mode) in zip(grid, pairs, strict=True):
        for axes, quantity in zip(row, ("probability", "accuracy"), strict=True):
            *curves, dashed = axes.lines
            assert len(curves) == 10
            for k, curve in enumerate(curves):
                rows = run.metrics[(run.metrics["batch_norm"] == mode) & (run.metrics["class"] == k)]
                assert curve.get_ydata().tolist() == rows[quantity].tolist()
                assert curve.get_xdata()[1:].tolist() == pytest.approx(rows["epoch"].tolist()[1:])
                assert 0 < curve.get_xdata()[0] < curve.get_xdata()[1]
                assert to_hex(curve.get_color()) == COLOURS[k].lower()
            assert set(dashed.get_xdata()) == {1}
            assert dashed.get_linestyle() == "--"
            assert axes.get_xscale() == "log"
    assert grid[0, 0].get_ylabel() == "loss=ce\n(running statistics)"
    assert grid[-1, 0].get_xticklabels()[0].get_text() == "Init."
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list("0123456789")


def test_the_summary_is_of_the_start_epoch_one_and_the_end(tmp_path):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8), (2, 0.5, 0.5, 0.5), (4, 0.4, 0.7, 0.3), (8, 0.5, 0.6, 0.45)])
    made_run(tmp_path / "b", [(0, 0.1, 0.9, 0.2), (2, 0.5, 0.5, 0.5)], started="2", status="interrupted")
    summary = report.summarize(find_runs([tmp_path])[0]).set_index("run")
    newer = ["weight_start", "drift_ratio_start"]  # than this file
    assert summary.loc["a", newer].isna().all()
    assert summary.loc["a"].drop(newer).to_dict() == {
        "status": "completed", "batch_norm": "running", "steps": 8, "favoured_class": "cat", "dominance_start": 0.8,
        "dominance_epoch_1": 0.7, "dominance_end": 0.55, "dominant_class": "dog", "escape_step": Censored(8),
        "half_life": 2, "mean_accuracy": 0.55, "worst_accuracy": 0.5,
    }  # fmt: skip
    assert summary.loc["b", "favoured_class"] == "dog"
    assert summary.loc["b", "steps"] == 2
    assert pd.isna(summary.loc["b", "dominance_epoch_1"])


def test_the_summary_has_the_weight_of_the_loss_at_initialisation(finished):
    runs = find_runs([finished])[0]
    summary = report.summarize(runs).set_index("run")
    assert summary.loc["loss=ce", "weight_start"].tolist() == pytest.approx([1, 1])
    first = runs[[run.label for run in runs].index("loss=pz")].metrics.query("step == 0 and batch_norm == 'running'")
    expected = (first["weight"] * first["count"]).sum() / first["count"].sum()
    assert summary.loc["loss=pz", "weight_start"].iloc[0] == pytest.approx(expected)


def test_the_report_writes_figures_and_table_and_says_where(finished, tmp_path, capsys):
    output = report.write([finished], tmp_path / "out")
    assert sorted(file.name for file in output.iterdir()) == [
        "classes.csv", "comparison.pdf", "comparison.png", "drivers.pdf", "drivers.png", "figure1.pdf", "figure1.png",
        "figure2.pdf", "figure2.png", "index.html", "loss_landscape.pdf", "loss_landscape.png", "summary.csv",
        "tensorboard",
    ]  # fmt: skip
    pdf = (output / "figure2.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/CIDFontType2" in pdf  # text stays text
    assert b"/Type3" not in pdf
    table = pd.read_csv(output / "summary.csv")
    assert table["run"].tolist() == ["loss=ce"] * 2 + ["loss=bl"] * 2 + ["loss=pz"] * 2
    printed = capsys.readouterr().out
    assert "favoured_class" in printed
    assert str(output) in printed


@pytest.mark.usefixtures("undrawn")
def test_several_folders_are_read_as_one_and_land_in_the_first(finished, tmp_path, undrawn):
    for loss in ("ce", "pz"):
        shutil.copytree(finished / loss, tmp_path / loss / loss)
    assert report.write([tmp_path / "ce", tmp_path / "pz"]) == tmp_path / "ce" / "report"
    assert len(find_runs([tmp_path / "ce", tmp_path / "pz", tmp_path / "ce" / "ce"])[0]) == 2


def test_a_torn_last_line_and_a_part_of_a_probe_are_dropped(tmp_path):
    folder = made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8), (1, 0.5, 0.5, 0.5)])
    whole = (folder / "metrics.csv").read_text()
    for end in range(len(whole) - 1, whole.index("\n1,"), -1):
        (folder / "metrics.csv").write_text(whole[:end])
        assert read_metrics(folder / "metrics.csv", 2)["step"].tolist() == [0, 0]


def test_numbers_come_back_to_the_last_digit(tmp_path):
    value = 0.1234567890123456789
    folder = made_run(tmp_path / "a", [(0, value, 4.325336755351853e-110, float("nan"))])
    table = read_metrics(folder / "metrics.csv", 2)
    assert table["probability"].tolist() == [value, 4.325336755351853e-110]
    assert table["guess_fraction"].isna().all()


def test_class_names_are_text_whatever_they_look_like(tmp_path):
    folder = made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)], class_names=["nan", "007"])
    text = (folder / "metrics.csv").read_text().replace(",cat,", ",nan,").replace(",dog,", ",007,")
    (folder / "metrics.csv").write_text(text)
    assert read_metrics(folder / "metrics.csv", 2)["class_name"].tolist() == ["nan", "007"]


def test_load_runs_is_one_row_for_each_run_probe_and_class(finished):
    table = igb.load_runs(finished)
    assert len(table) == 3 * 14 * 2 * 10
    assert list(table.columns) == ["run", "status", "config.loss", *METRICS]
    assert table["config.loss"].unique().tolist() == ["ce", "bl", "pz"]
    assert table["run"].unique().tolist() == ["loss=ce", "loss=bl", "loss=pz"]
    assert len(igb.load_runs(finished / "ce")) == 14 * 2 * 10
    assert len(igb.load_runs([finished / "ce", str(finished / "pz")])) == 2 * 14 * 2 * 10


def test_swept_keys_are_typed_columns(tmp_path):
    for index, lr in enumerate(("0.1", "1e-3")):
        overrides = [f"optimizer.lr={lr}", "data=digits", f"seed={index}"]
        made_run(tmp_path / lr, [(0, 0.9, 0.1, 0.8)], overrides=overrides, started=str(index))
    table = igb.load_runs(tmp_path)
    assert table["config.optimizer.lr"].unique().tolist() == [0.1, 0.001]
    assert table["config.seed"].unique().tolist() == [0, 1]
    assert "config.data" not in table.columns
    assert table["run"].unique().tolist() == ["optimizer.lr=0.1, seed=0", "optimizer.lr=0.001, seed=1"]


def test_the_same_overrides_in_two_sweeps_stay_two_runs(tmp_path):
    for index, sweep in enumerate(("first", "second")):
        for loss in ("ce", "pz"):
            overrides = [f"loss={loss}", "model.widths=[64,64]" if loss == "ce" else "model.widths=[1]"]
            folder = tmp_path / sweep / f"loss={loss}"
            made_run(folder, [(0, 0.9, 0.1, 0.8)], overrides=overrides, started=str(index))
    table = igb.load_runs(tmp_path)
    assert table.groupby("run").size().tolist() == [2] * 4
    assert table["run"].iloc[0] == "loss=ce, model.widths=[64, 64] (first/loss=ce)"
    assert table["config.model.widths"].unique().tolist() == ["[64, 64]", "[1]"]


def test_broken_initial_outputs_favour_no_class(tmp_path):
    made_run(tmp_path / "a", [(0, float("nan"), float("nan"), float("nan"))])
    assert report.summarize(find_runs([tmp_path])[0])["favoured_class"].isna().all()


def test_where_several_classes_are_most_guessed_none_is_dominant(tmp_path):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8), (4, 0.5, 0.5, 0.5)])
    assert report.summarize(find_runs([tmp_path])[0])["dominant_class"].isna().all()


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_shown_yet_is_named(tmp_path, capsys):
    made_run(tmp_path / "good", [(0, 0.9, 0.1, 0.8)])
    made_run(tmp_path / "early", [], status="running")
    made_run(tmp_path / "torn", [(0, 0.9, 0.1, 0.8)])
    (tmp_path / "torn" / "run.json").write_text('{"status": ')
    made_run(tmp_path / "old", [(0, 0.9, 0.1, 0.8)])
    (tmp_path / "old" / "run.json").write_text("{}")
    report.write([tmp_path])
    printed = capsys.readouterr().out
    assert "left out: " in printed
    assert "early: no probe yet (interrupted)" in printed
    assert "old/run.json has no status of an igb run" in printed
    assert printed.count("left out") == 3


@pytest.mark.usefixtures("undrawn")
def test_runs_of_other_classes_are_left_out_and_named(tmp_path, capsys):
    for index, names in enumerate((["cat", "dog"], ["cat", "cow"], ["cat", "dog"])):
        made_run(tmp_path / str(index), [(0, 0.9, 0.1, 0.8)], class_names=names, started=str(index))
    report.write([tmp_path])
    printed = capsys.readouterr().out
    assert f"left out: {tmp_path}/1: its 2 classes are not those of {tmp_path}/0" in printed
    assert pd.read_csv(tmp_path / "report" / "summary.csv")["run"].astype(str).tolist() == ["0", "2"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(",loss,", ",Loss,"), "metrics.csv has no column 'loss'"),
        (lambda text: text.replace(",0.9,", ",high,"), "metrics.csv is damaged: .*high"),
        (lambda text: text.replace("running,1,dog", "running,0,dog"), "does not have the 2 classes of run.json"),
        (lambda text: "", "metrics.csv has no column 'step'"),
        (lambda text: text + text.partition("\n")[2], "running probes of metrics.csv are not in the order"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, capsys, damage, message):
    made_run(tmp_path / "good", [(0, 0.9, 0.1, 0.8)])
    file = made_run(tmp_path / "bad", [(0, 0.9, 0.1, 0.8)]) / "metrics.csv"
    file.write_text(damage(file.read_text()))
    report.write([tmp_path])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert re.search(f"left out: .*bad: .*{message}", line)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_names", {}), ("class_names", []), ("class_names", [1, 2]), ("steps_per_epoch", 0),
        ("steps_per_epoch", "4"), ("started", None), ("status", {}), ("total_steps", None),
    ],
)  # fmt: skip
def test_a_run_of_another_format_is_one_line(tmp_path, capsys, key, value):
    made_run(tmp_path / "good", [(0, 0.9, 0.1, 0.8)])
    made_run(tmp_path / "bad", [(0, 0.9, 0.1, 0.8)], **{key: value})
    report.write([tmp_path])
    expected = "bad/run.json has no status of an igb run" if key == "status" else f"bad: run.json has no valid {key!r}"
    assert expected in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", ["- loss=ce\n- 'torn", "", "- ???", "7", "- loss=${"])
def test_overrides_that_cannot_be_read_are_taken_from_the_config(tmp_path, text):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)], overrides=["lr=0.2"], config={"lr": 0.2, "other": "${nope:1}"})
    made_run(tmp_path / "b", [(0, 0.9, 0.1, 0.8)], config={"lr": 0.1, "other": "x"}, started="2", seeds=None)
    (tmp_path / "b" / ".hydra" / "overrides.yaml").write_text(text)
    report.write([tmp_path])
    assert igb.load_runs(tmp_path)["config.lr"].unique().tolist() == [0.2, 0.1]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("end", ["0,C", "0,Mine(),0.5,1e", "0,Mine(),0,1,1\n", "0,Mine(),high,1,1\n"])
def test_a_damaged_loss_curve_is_read_as_far_as_it_goes(tmp_path, end):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
    lines = ["from_epoch,name,p_y,loss,gradient", "0,Mine(),0.1,1,-1", "0,Mine(),1,0,0", end]
    (tmp_path / "a" / "loss_curve.csv").write_text("\n".join(lines))
    report.write([tmp_path])
    (curve,) = loss_curves(find_runs([tmp_path])[0])
    assert curve.p.tolist() == [0.1, 1]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", ["[", "5"])
def test_a_damaged_plan_is_one_line(tmp_path, capsys, text):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
    (tmp_path / "sweep.json").write_text(text)
    report.write([tmp_path])
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]) == 1


@pytest.mark.usefixtures("undrawn")
def test_one_run_in_both_modes_is_no_matter_of_seeds(tmp_path, capsys):
    folder = made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
    other = made_run(tmp_path / "b", [(0, 0.9, 0.1, 0.1)]) / "metrics.csv"
    rows = other.read_text().replace("running", "batch").splitlines(keepends=True)[1:]
    shutil.rmtree(tmp_path / "b")
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text() + "".join(rows))
    report.write([tmp_path])
    assert "favour different classes" not in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_what_can_be_shown_is_shown_where_nothing_can_be_written(tmp_path, capsys):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
    (tmp_path / "report").touch()
    with pytest.raises(InputError, match="report cannot be written"):
        report.write([tmp_path])
    assert "favoured_class" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["index.html", "summary.csv", "figure1.pdf"])
def test_files_of_others_are_not_overwritten(name, tmp_path):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(InputError, match=f"mine has {name} which igb-report would overwrite but did not write"):
        report.write([tmp_path], tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine"
    (tmp_path / "odd" / "index.html").mkdir(parents=True)
    with pytest.raises(InputError, match="odd cannot be written"):
        report.write([tmp_path], tmp_path / "odd")


@pytest.mark.slow
def test_many_classes_with_long_names_in_any_script_have_figures(tmp_path):
    names = [f"{k} 猫 $x_{k}$ & a name that goes on and on" for k in range(60)]
    folder = made_run(tmp_path / "a", [], class_names=names)
    rows = [f"{s},{s / 4},running,{k},{names[k]},5,0.1,0.1,0.1,0.1,1,1,1" for s in (0, 4) for k in range(60)]
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    report.write([tmp_path])  # a warning is an error
    figure = figures.over_training(panels(find_runs([tmp_path])[0]), figures.FIGURE_2)
    assert len(figure.axes[0].lines) == 61
    assert len(figure.legends[0].get_texts()) <= 20


@pytest.mark.usefixtures("undrawn")
def test_the_table_is_written_as_csv_and_parquet(finished, tmp_path, undrawn):
    report.write([finished], tmp_path, csv=True, parquet=True)
    table = igb.load_runs(finished)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), table)
    texts = {"split": str, "batch_norm": str, "class_name": str, "run": str, "status": str, "config.loss": str}
    written = pd.read_csv(tmp_path / "runs.csv", dtype=texts)
    pd.testing.assert_frame_equal(written, table.astype(dict.fromkeys(texts, written["run"].dtype)))
    report.write([finished], tmp_path)
    assert not list(tmp_path.glob("runs.*"))  # which would be of the report before


def test_a_run_that_repeated_an_epoch_is_told_of(tmp_path, undrawn):
    """As igb did once when a run resumed for the second time; `made_run` is to have 8 steps."""
    rows = [(step, 0.9, 0.1, 0.8) for step in (0, 4, 8, 12)]
    made_run(tmp_path / "right", rows[:-1])
    made_run(tmp_path / "wrong", rows)
    page = (report.write([tmp_path]) / "index.html").read_text()
    assert page.count("and was to have 8: an earlier igb repeated an epoch") == 1
    assert "wrong has 12 steps, and was to have 8" in page


def test_runs_started_from_python_are_named_by_the_classes_of_their_parts(tmp_path):
    for name, loss in {
        "a": {"_target_": "igb.losses.CrossEntropy"},
        "b": {"_target_": "my.losses.Poly", "epsilon": 2},
    }.items():
        made_run(tmp_path / name, [(0, 0.9, 0.1, 0.8)], config={"seed": 0, "loss": loss}, started=name)
    runs, _ = find_runs([tmp_path])
    assert [run.label for run in runs] == ["loss=CrossEntropy", "loss=Poly, loss.epsilon=2"]


def test_a_missing_override_has_the_value_of_the_config(tmp_path):
    config = {"seed": 0, "optimizer": {"lr": 0.001}, "loss": {"gamma": 0.7}}
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)], overrides=["loss=bl"], config=config)
    (tmp_path / "a" / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {loss: bl, init: he}}}")
    overrides = ["optimizer.lr=0.01", "init=torchvision", "loss.gamma=0.7"]
    made_run(tmp_path / "b", [(0, 0.9, 0.1, 0.8)], overrides=overrides, config=config, started="2")
    table = igb.load_runs(tmp_path).drop_duplicates("run")
    assert table["run"].tolist() == [
        "loss=bl, optimizer.lr=0.001, init=he", "optimizer.lr=0.01, init=torchvision",
    ]  # fmt: skip
    assert table["config.optimizer.lr"].tolist() == [0.001, 0.01]
    assert table["config.init"].tolist() == ["he", "torchvision"]
    assert "config.loss.gamma" not in table.columns


def test_columns_are_numbers_truth_values_or_categories(tmp_path):
    given = (["a=1", "b=true", "c=1", "d=x"], ["a=0.5", "b=false", "d=y"], ["a=2", "b=true", "c=3", "d=x"])
    for index, overrides in enumerate(given):
        made_run(tmp_path / str(index), [(0, 0.9, 0.1, 0.8)], overrides=overrides, started=str(index))
    types = igb.load_runs(tmp_path).dtypes.astype(str)
    assert [types[f"config.{key}"] for key in "abcd"] == ["float64", "bool", "Int64", "category"]
    assert types[["run", "status", "batch_norm", "class_name"]].tolist() == ["category"] * 4


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_sweep_shows_what_there_is_and_says_what_is_missing(tmp_path, capsys):
    for seed, status in enumerate(("completed", "running", "running", "failed", "diverged")):
        entries = {"status": status, "started": str(seed), "reason": "out of memory" if status == "failed" else None}
        made_run(
            tmp_path / f"seed={seed}", [(0, 0.9, 0.1, 0.8), (4, 0.5, 0.5, 0.5)], overrides=[f"seed={seed}"], **entries
        )
    state.plan(tmp_path, [f"seed={seed}" for seed in range(6)])
    taken = lock.Lock(tmp_path / "seed=1")
    taken.acquire()
    report.write([tmp_path])
    table = igb.load_runs(tmp_path)
    taken.release()
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith(("left out", "unfinished"))] == [
        f"left out: {tmp_path}/seed=5: not started",
        f"unfinished: seed=1: running, measured up to step 4 of 8; see {tmp_path}/seed=1/igb.log",
        f"unfinished: seed=2: interrupted, measured up to step 4 of 8; see {tmp_path}/seed=2/igb.log",
        f"unfinished: seed=3: failed (out of memory), measured up to step 4 of 8; see {tmp_path}/seed=3/igb.log",
    ]
    assert table.groupby("run")["status"].first().tolist() == [
        "completed", "running", "interrupted", "failed", "diverged",
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["no folder", "empty", "output", "threshold", "align"])
def test_what_cannot_be_reported_is_one_line(tmp_path, case):
    folders, output = [tmp_path], None
    if case == "no folder":
        folders = [tmp_path / "missing"]
        message = "missing is not a folder"
    elif case == "empty":
        message = "no run with recorded probes in"
    elif case in ("threshold", "align"):
        with pytest.raises(InputError, match=rf"{case}=2 must be"):
            report.write(folders, **{case: 2})
        return
    else:
        made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
        (tmp_path / "file").touch()
        output = tmp_path / "file" / "out"
        message = "cannot be written"
    with pytest.raises(InputError, match=message):
        report.write(folders, output)


def test_a_run_without_training_has_a_report(tmp_path):
    tiny_run(tmp_path / "run", "trainer.max_epochs=0")
    report.write([tmp_path / "run"])
    assert (tmp_path / "run" / "report" / "figure2.png").exists()


def test_the_explanatory_figures_draw_what_is_recorded(finished, runs):
    figure = figures.over_training(panels(runs), figures.DRIVERS)
    axes = np.array(figure.axes).reshape(6, 2)[4]  # pz, running
    rows = runs[2].metrics.query("batch_norm == 'running' and step == 45")
    norms = rows["count"] * rows["gradient_norm"]
    at = [line.get_xdata().tolist().index(1) for line in axes[0].lines[:10]]
    assert [line.get_ydata()[n] for line, n in zip(axes[0].lines, at, strict=False)] == pytest.approx(
        (norms / norms.sum()).tolist()
    )
    assert [line.get_ydata()[n] for line, n in zip(axes[1].lines, at, strict=False)] == rows["active_fraction"].tolist()

    curves = loss_curves(runs)
    assert [curve.name for curve in curves] == [
        "CrossEntropy()", "BlurryLoss(gamma=0.7, detach_weight=False)", "PiecewiseZeroLoss(cutoff=0.1)",
    ]  # fmt: skip
    assert [curve.regions for curve in curves] == [
        [],
        [("wrong way", 1e-6, pytest.approx(math.exp(-1 / 0.7), rel=1e-9))],
        [("dead", 1e-6, pytest.approx(0.1, rel=1e-9))],
    ]
    loss, gradient, *_ = figures.loss_landscape(curves).axes
    for curve, drawn in zip(curves, loss.lines, strict=True):
        assert drawn.get_ydata().tolist() == curve.loss.tolist()
    assert gradient.lines[0].get_ydata().tolist() == pytest.approx((curves[0].p - 1).tolist(), abs=1e-12)


def test_losses_of_one_name_and_other_curves_are_told_apart(finished, tmp_path):
    for index in range(2):
        made_run(tmp_path / str(index), [(0, 0.9, 0.1, 0.8)], overrides=[f"loss.x={index}"], started=str(index))
        lines = ["from_epoch,name,p_y,loss,gradient", f"0,Mine(),0.1,{index},-1", "0,Mine(),1,0,0"]
        (tmp_path / str(index) / "loss_curve.csv").write_text("\n".join(lines) + "\n")
    assert [curve.name for curve in loss_curves(find_runs([tmp_path])[0])] == ["Mine()", "Mine(), loss.x=1"]


def test_many_classes_keep_one_colour_each():
    colours = [*figures.class_colours(25)]
    assert len(set(colours)) == 25
