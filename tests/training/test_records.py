import csv
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import igb
from igb import experiment
from igb._checks import InputError
from igb.folder.schema import METRICS, QUANTITIES
from igb.folder.state import RunState
from igb.report.runs import read_metrics
from igb.training import matrices
from igb.training.eta import Eta
from igb.training.records import CHARTS, tag
from tests.conftest import TINY, tiny_config, tiny_run

MODES = ("running", "batch")


def info(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_folder_is_as_the_contract_says(finished):
    names = {file.name for file in (finished / "bl").iterdir() if not file.name.startswith("events.out.tfevents.")}
    assert names == {
        ".hydra",
        ".lock",
        "metrics.csv",
        "matrices.zarr",
        "train.csv",
        "loss_curve.csv",
        "run.json",
        "checkpoints",
    }  # fmt: skip  (igb.log is Hydra's)
    assert [file.name for file in (finished / "bl" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert len(list((finished / "bl").glob("events.out.tfevents.*"))) == 1
    assert (finished / "bl" / ".hydra" / "config.yaml").exists()


def test_metrics_have_a_row_for_each_step_mode_and_class(finished):
    table = pd.read_csv(finished / "bl" / "metrics.csv")
    assert list(table.columns) == list(METRICS)
    steps = sorted(table["step"].unique())
    assert steps[:11] == list(range(11))
    assert len(steps) == 1 + 12 + 1
    expected = [(step, mode, k) for step in steps for mode in MODES for k in range(10)]
    assert list(table[["step", "batch_norm", "class"]].itertuples(index=False, name=None)) == expected
    assert (table["epoch"] == table["step"] / 45).all()
    assert table.groupby(["step", "batch_norm"])["count"].sum().unique().tolist() == [360]


def test_matrices_hold_what_the_metrics_are_views_of(finished):
    saved = igb.load_matrices(finished / "pz")
    table = read_metrics(finished / "pz" / "metrics.csv", 10)
    assert saved.probability.shape == saved.prediction.shape == (28, 10, 10)
    assert saved.probability.dtype == np.float32
    assert set(saved.split) == {"test"}
    for index, (step, mode) in enumerate(zip(saved.step, saved.batch_norm, strict=True)):
        rows = table[(table["step"] == step) & (table["batch_norm"] == mode)]
        share = rows["count"] / rows["count"].sum()
        probability, prediction = saved.probability[index], saved.prediction[index]
        assert np.array_equal(np.diag(probability), rows["probability"].astype(np.float32))
        assert np.array_equal(np.diag(prediction), rows["accuracy"].astype(np.float32))
        np.testing.assert_allclose(share @ probability, rows["mean_probability"], rtol=1e-7)
        np.testing.assert_allclose(share @ prediction, rows["guess_fraction"], rtol=1e-7)
        np.testing.assert_allclose(prediction.sum(axis=1), 1, rtol=1e-6)


def test_train_has_a_row_for_each_step(finished):
    table = pd.read_csv(finished / "ce" / "train.csv")
    assert list(table.columns) == ["step", "epoch", "loss", "lr", "images_per_second"]
    assert table["step"].tolist() == list(range(1, 91))
    assert (table["lr"] == 0.001).all()
    assert (table["images_per_second"] > 0).all()
    assert table["loss"].iloc[-10:].mean() < table["loss"].iloc[:10].mean()


def test_loss_curve_has_every_loss_of_the_schedule(finished):
    table = pd.read_csv(finished / "bl" / "loss_curve.csv")
    assert list(table.columns) == ["from_epoch", "name", "p_y", "loss", "gradient", "weight"]
    phases = table.groupby("from_epoch")["name"].unique()
    assert phases[0].tolist() == ["CrossEntropy()"]
    assert phases[1].tolist() == ["BlurryLoss(gamma=0.7, detach_weight=False)"]
    curve = table[table["from_epoch"] == 1]
    assert curve["p_y"].min() == 1e-6
    assert curve["p_y"].max() == 1
    np.testing.assert_allclose(curve["loss"], -(curve["p_y"] ** 0.7) * np.log(curve["p_y"]), atol=1e-12)


def test_run_json_says_how_and_on_what(finished):
    entries = info(finished / "ce")
    assert entries["status"] == "completed"
    assert entries["seeds"] == {"seed": 0, "init_seed": 0, "data_seed": 0, "noise_seed": 0}
    assert entries["class_names"] == list("0123456789")
    assert (entries["steps_per_epoch"], entries["total_steps"]) == (45, 90)
    assert (entries["precision"], entries["threads"], entries["deterministic"]) == ("float32", 1, True)
    assert entries["device"] == "cpu"
    assert entries["threads"] >= 1
    assert entries["wall_seconds"] > 0
    assert entries["peak_memory_bytes"] > 100e6
    assert {"igb", "torch", "python"} <= entries["versions"].keys()


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_every_quantity_of_every_class_at_every_probe(finished):
    accumulator = events(finished / "bl")
    table = read_metrics(finished / "bl" / "metrics.csv", 10)
    tags = set(accumulator.Tags()["scalars"])
    for mode in MODES:
        for metric in QUANTITIES:
            for k in range(10):
                name = tag(mode, metric, k, str(k))
                assert name in tags
                rows = table[(table["batch_norm"] == mode) & (table["class"] == k)]
                scalars = accumulator.Scalars(name)
                assert [scalar.step for scalar in scalars] == rows["step"].tolist()
                np.testing.assert_allclose([scalar.value for scalar in scalars], rows[metric], rtol=1e-6, atol=1e-38)
    assert len(accumulator.Scalars("train/loss")) == 90
    assert len(accumulator.Scalars("dominance/running")) == 14


def test_custom_charts_take_each_class_once(finished):
    """The tags of a chart are regular expressions that match prefixes: class 1 must not bring in class 10."""
    accumulator = events(finished / "bl")
    layout = layout_pb2.Layout()
    layout.ParseFromString(accumulator.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(MODES)
    tags = [*accumulator.Tags()["scalars"], *(f"probability/running/1{n} x" for n in range(3))]
    for category in layout.category:
        first, *others = category.chart
        assert (first.title, list(first.multiline.tag)) == ("dominance", [f"^dominance/{category.title}$"])
        assert [chart.title for chart in others] == list(CHARTS)
        assert set(CHARTS) == set(QUANTITIES)
        for chart in others:
            matched = [[name for name in tags if re.match(pattern, name)] for pattern in chart.multiline.tag]
            expected = [[tag(category.title, chart.title, k, str(k))] for k in range(10)]
            assert matched == expected


def test_tensorboard_has_the_config_as_text(finished):
    text = events(finished / "bl").Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "_target_: igb.losses.BlurryLoss" in text


@pytest.mark.parametrize("probe", ["every_batch", "log"])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path, probe):
    folder = tmp_path / "run"
    fuse = 4 if probe == "every_batch" else 60
    overrides = ["model._target_=tests.helpers.networks.Explosive", f"+model.fuse={fuse}", f"probe={probe}"]
    assert experiment.run(tiny_config(*overrides), folder) == "diverged"
    assert info(folder)["status"] == "diverged"
    losses = pd.read_csv(folder / "train.csv")["loss"]
    assert len(losses) == fuse + 1
    assert losses.isna().tolist() == [False] * fuse + [True]
    steps = read_metrics(folder / "metrics.csv", 10)["step"]
    assert steps.max() == (fuse if probe == "every_batch" else 45)  # no probe of what is broken
    assert igb.load_matrices(folder).step[-1] == steps.max()


def test_losses_since_the_last_read_are_kept_when_a_run_stops(tmp_path, monkeypatch):
    def stop(self, batch, batch_index):
        if self.global_step == 70:
            raise KeyboardInterrupt  # within a step, as a second Ctrl-C
        return original(self, batch, batch_index)

    original = experiment.Classifier.training_step
    monkeypatch.setattr(experiment.Classifier, "training_step", stop)
    with pytest.raises(SystemExit):
        tiny_run(tmp_path / "run", "probe=log", "probe.points=11")
    assert info(tmp_path / "run")["status"] == "interrupted"
    assert pd.read_csv(tmp_path / "run" / "train.csv")["step"].tolist() == list(range(1, 71))


def test_the_status_is_settled_also_if_a_record_cannot_be(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrices, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_run(tmp_path / "run")
    assert info(tmp_path / "run")["status"] == "failed"


def test_two_runs_cannot_take_one_folder(tmp_path):
    first, second = (RunState(tmp_path / "run", tiny_config()) for _ in range(2))
    with first:
        with pytest.raises(InputError, match="another process is writing to"), second:
            pass
        assert info(tmp_path / "run")["status"] == "running"
    assert info(tmp_path / "run")["status"] == "completed"


def test_the_bar_shows_loss_and_dominance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    tiny_run(tmp_path / "run", "trainer.max_steps=3")
    loss = pd.read_csv(tmp_path / "run" / "train.csv")["loss"].iloc[-1]
    assert f"loss={loss:.3g}"[:8] in capsys.readouterr().out


def test_a_run_that_fails_says_so_and_keeps_its_records(tmp_path, monkeypatch):
    def fail(self, *_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Eta, "on_train_epoch_end", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        tiny_run(tmp_path / "run")
    assert info(tmp_path / "run")["status"] == "failed"
    assert read_metrics(tmp_path / "run" / "metrics.csv", 10)["step"].max() == 45


def test_the_checkpoint_goes_when_it_is_not_to_be_kept(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_epochs=1", "trainer.keep_checkpoint=false")
    assert not (folder / "checkpoints" / "last.ckpt").exists()


def test_no_epochs_leave_the_initial_probe_alone(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_epochs=0")
    assert info(folder)["status"] == "completed"
    assert read_metrics(folder / "metrics.csv", 10)["step"].unique().tolist() == [0]
    assert (folder / "train.csv").read_text().count("\n") == 1


def test_max_steps_end_a_run_within_an_epoch(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=50")
    steps = read_metrics(folder / "metrics.csv", 10)["step"].unique().tolist()
    assert steps == [*range(46), 50]
    assert len(pd.read_csv(folder / "train.csv")) == 50


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        tiny_run(tmp_path / "file" / "run")


def start(folder, *overrides):
    """A real run in a process of its own, once it has recorded some steps of training."""
    command = [sys.executable, "-m", "igb", *TINY, f"hydra.run.dir={folder}", "trainer.max_epochs=10000", *overrides]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "train.csv").exists() or (folder / "train.csv").read_text().count("\n") < 60:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_ctrl_c_leaves_a_finished_record(tmp_path):
    process = start(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert info(tmp_path / "run")["status"] == "interrupted"
    table = read_metrics(tmp_path / "run" / "metrics.csv", 10)
    assert igb.load_matrices(tmp_path / "run").step.tolist() == table["step"].unique().tolist()


@pytest.mark.slow
def test_records_can_be_read_after_a_kill(tmp_path):
    process = start(tmp_path / "run")
    process.kill()
    process.communicate()
    assert info(tmp_path / "run")["status"] == "running"
    assert len(read_metrics(tmp_path / "run" / "metrics.csv", 10)) >= 460
    with open(tmp_path / "run" / "train.csv") as file:
        assert len(list(csv.reader(file))) >= 46
    assert len(igb.load_matrices(tmp_path / "run")) >= 46
    assert len(events(tmp_path / "run").Scalars("dominance/running")) >= 46
