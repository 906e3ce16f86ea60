import json
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import igb
from igb import folders, report
from igb._checks import InputError
from igb.report import figures
from igb.report.runs import find_runs, read_metrics
from tests.conftest import tiny_run

HEADER = "step,epoch,batch_norm,class,class_name,count,probability,accuracy,mean_probability,guess_fraction,loss"
HEADER += ",gradient_norm,active_fraction"


@pytest.fixture
def runs(finished):
    return find_runs([finished])[0]


def made_run(folder, rows, *, overrides=(), **entries):
    """A run folder of two classes, with steps of four to an epoch; a row is step, p_0, p_1, G_0."""
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    info = {
        "status": "completed",
        "started": "1",
        "class_names": ["cat", "dog"],
        "steps_per_epoch": 4,
        "total_steps": 8,
    }
    (folder / "run.json").write_text(json.dumps({**info, **entries}))
    lines = [HEADER]
    for step, first, second, guess in rows:
        for k, (p, g) in enumerate([(first, guess), (second, 1 - guess)]):
            lines.append(f"{step},{step / 4},running,{k},{['cat', 'dog'][k]},5,{p},{p},{p},{g},1,1,1")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_runs_are_named_by_what_tells_them_apart(runs):
    assert [run.label for run in runs] == ["loss=ce", "loss=bl", "loss=pz"]  # in the order they started


def test_figure_1_shows_both_means_at_initialisation(runs):
    figure = figures.figure1(runs)
    panels = [axes for axes in figure.axes if axes.patches]
    assert len(panels) == 6  # three runs in two modes
    expected = runs[0].metrics.query("step == 0 and batch_norm == 'running'")
    heights = [patch.get_height() for patch in panels[0].patches]
    assert heights == [*expected["probability"], *expected["mean_probability"]]
    assert [label.get_text() for label in panels[3].get_xticklabels()] == list("0123456789")
    colours = [to_hex(patch.get_facecolor()) for patch in panels[0].patches[:10]]
    assert colours == [colour.lower() for colour in figures.COLOURS]
    edges = [to_hex(patch.get_edgecolor()) for patch in panels[0].patches[10:]]
    assert edges == colours
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "over the images of the class",
        "over all images",
    ]


def test_figure_2_shows_probability_and_accuracy_of_every_class(runs):
    figure = figures.figure2(runs)
    grid = np.array(figure.axes).reshape(6, 2)
    panels = [(one, mode) for one in runs for mode in one.modes]
    for row, (run, mode) in zip(grid, panels, strict=True):
        for axes, quantity in zip(row, ("probability", "accuracy"), strict=True):
            *curves, dashed = axes.lines
            assert len(curves) == 10
            for k, curve in enumerate(curves):
                rows = run.metrics[(run.metrics["batch_norm"] == mode) & (run.metrics["class"] == k)]
                assert curve.get_ydata().tolist() == rows[quantity].tolist()
                assert curve.get_xdata()[1:].tolist() == pytest.approx(rows["epoch"].tolist()[1:])
                assert 0 < curve.get_xdata()[0] < curve.get_xdata()[1]
                assert to_hex(curve.get_color()) == figures.COLOURS[k].lower()
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
    assert summary.loc["a"].to_dict() == {
        "status": "completed", "batch_norm": "running", "steps": 8, "favoured_class": "cat", "dominance_start": 0.8,
        "dominance_epoch_1": 0.7, "dominance_end": 0.55, "mean_accuracy": 0.55, "worst_accuracy": 0.5,
    }  # fmt: skip
    assert summary.loc["b", "favoured_class"] == "dog"
    assert summary.loc["b", "steps"] == 2
    assert pd.isna(summary.loc["b", "dominance_epoch_1"])


def test_the_report_writes_figures_and_table_and_says_where(finished, tmp_path, capsys):
    output = report.write([finished], tmp_path / "out")
    assert sorted(file.name for file in output.iterdir()) == [
        "figure1.pdf", "figure1.png", "figure2.pdf", "figure2.png", "summary.csv",
    ]  # fmt: skip
    assert (output / "figure2.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(output / "summary.csv")
    assert table["run"].tolist() == ["loss=ce"] * 2 + ["loss=bl"] * 2 + ["loss=pz"] * 2
    printed = capsys.readouterr().out
    assert "favoured_class" in printed
    assert str(output) in printed


def test_several_folders_are_read_as_one_and_land_in_the_first(finished, tmp_path):
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
    assert list(table.columns) == ["run", "status", "config.loss", *HEADER.split(",")]
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


def test_the_pdf_keeps_text_as_text(finished, tmp_path):
    report.write([finished / "ce"], tmp_path)
    assert b"/CIDFontType2" in (tmp_path / "figure2.pdf").read_bytes()
    assert b"/Type3" not in (tmp_path / "figure2.pdf").read_bytes()


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
    assert "old: run.json has no 'status'" in printed
    assert printed.count("left out") == 3


def test_an_unfinished_sweep_shows_what_there_is_and_says_what_is_missing(tmp_path, capsys):
    for seed, status in enumerate(("completed", "running", "running", "failed", "diverged")):
        entries = {"status": status, "started": str(seed), "reason": "out of memory" if status == "failed" else None}
        made_run(
            tmp_path / f"seed={seed}", [(0, 0.9, 0.1, 0.8), (4, 0.5, 0.5, 0.5)], overrides=[f"seed={seed}"], **entries
        )
    folders.plan(tmp_path, [f"seed={seed}" for seed in range(6)])
    lock = folders.Lock(tmp_path / "seed=1")
    lock.acquire()
    report.write([tmp_path])
    table = igb.load_runs(tmp_path)
    lock.release()
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith(("left out", "unfinished"))] == [
        f"left out: {tmp_path}/seed=5: not begun",
        f"unfinished: seed=1: running, measured up to step 4 of 8; see {tmp_path}/seed=1/igb.log",
        f"unfinished: seed=2: interrupted, measured up to step 4 of 8; see {tmp_path}/seed=2/igb.log",
        f"unfinished: seed=3: failed (out of memory), measured up to step 4 of 8; see {tmp_path}/seed=3/igb.log",
    ]
    assert table.groupby("run")["status"].first().tolist() == [
        "completed", "running", "interrupted", "failed", "diverged",
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["no folder", "empty", "classes", "output"])
def test_what_cannot_be_reported_is_one_line(tmp_path, case):
    folders, output = [tmp_path], None
    if case == "no folder":
        folders = [tmp_path / "missing"]
        message = "missing is not a folder"
    elif case == "empty":
        message = "there is no run with a probe in"
    elif case == "classes":
        made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)])
        made_run(tmp_path / "b", [(0, 0.9, 0.1, 0.8)], class_names=["cat", "cow"])
        message = "the runs have different classes"
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


def test_many_classes_keep_one_colour_each():
    colours = [figures._colour(k, 25) for k in range(25)]
    assert len(set(colours)) == 25
