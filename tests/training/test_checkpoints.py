import json
import logging
import os
import shutil
import time
import zipfile

import pandas as pd
import pytest
import torch

import igb
from igb import experiment
from igb._checks import InputError
from igb.folder import state
from igb.training import checkpoints
from igb.training.lightning_trainer import StreamingCheckpointIO
from igb.training.stopping import Stop, StoppedError
from tests.conftest import tiny_config, tiny_run
from tests.helpers.faults import OVERRIDES, content

FEW = (*OVERRIDES, "trainer.max_steps=60", "probe=log", "probe.points=11", "trainer.checkpoint_minutes=100")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return content(tiny_run(tmp_path_factory.mktemp("undisturbed") / "run", *FEW))


def stop_at(monkeypatch, step, *overrides, folder):
    """A run that is told to stop within a step."""

    def training_step(self, batch, index):
        if self.global_step == step - 1:
            os.kill(os.getpid(), 15)
        return original(self, batch, index)

    original = experiment.Classifier.training_step
    with monkeypatch.context() as context:
        context.setattr(experiment.Classifier, "training_step", training_step)
        with pytest.raises(StoppedError, match="SIGTERM"):
            tiny_run(folder, *FEW, *overrides)


@pytest.mark.parametrize("step", [1, 30, 44, 45, 46])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch, undisturbed, step):
    folder = tmp_path / "run"
    stop_at(monkeypatch, step, folder=folder)
    entries = json.loads((folder / "run.json").read_text())
    assert (entries["status"], entries["reason"]) == ("interrupted", "stopped by SIGTERM")
    assert checkpoints.latest(folder).step == step
    tiny_run(folder, *FEW)
    assert content(folder) == undisturbed
    assert json.loads((folder / "run.json").read_text())["resumed"] == [step]


LONGER = "trainer.max_steps=140"  # of epochs of 45


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return content(tiny_run(tmp_path_factory.mktemp("longer") / "run", *FEW, LONGER))


@pytest.mark.parametrize("steps", [(45, 90), (45, 100), (30, 45, 90, 135), (44, 45, 46), (45, 60, 90, 91)])
def test_a_run_that_is_stopped_again_and_again_comes_to_the_same_end(tmp_path, monkeypatch, longer, steps):
    folder = tmp_path / "run"
    for step in steps:
        stop_at(monkeypatch, step, LONGER, folder=folder)
        assert checkpoints.latest(folder).step == step
    tiny_run(folder, *FEW, LONGER)
    assert content(folder) == longer
    assert json.loads((folder / "run.json").read_text())["resumed"] == list(steps)


def test_a_run_whose_limit_grows_again_and_again_comes_to_the_same_end(tmp_path):
    for epochs in (1, 2, 3):
        grown = tiny_run(tmp_path / "grown", *FEW, "trainer.max_steps=null", f"trainer.max_epochs={epochs}")
    whole = tiny_run(tmp_path / "whole", *FEW, "trainer.max_steps=null", "trainer.max_epochs=3")
    assert content(grown) == content(whole)


def test_a_checkpoint_that_counts_too_few_epochs_is_put_right(tmp_path, monkeypatch, longer):
    """As igb wrote them at the ends of epochs in a run that had resumed at the end of one."""
    folder = tmp_path / "run"
    stop_at(monkeypatch, 90, LONGER, folder=folder)
    file = folder / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    for counts in state["loops"]["fit_loop"]["epoch_progress"].values():
        assert counts == {"ready": 2, "started": 2, "processed": 1, "completed": 1}
        counts |= {"ready": 1, "started": 1}
    torch.save(state, file)
    tiny_run(folder, *FEW, LONGER)
    assert content(folder) == longer


def test_a_run_that_has_repeated_an_epoch_says_so_when_it_goes_on(tmp_path, caplog):
    folder = tiny_run(tmp_path / "run", *FEW)
    entries = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(entries | {"total_steps": 15}))
    with caplog.at_level(logging.INFO, "igb"):
        tiny_run(folder, *FEW, LONGER)
    assert "going on after step 60" in caplog.messages
    assert any("has 60 steps, and was to have 15: an earlier igb repeated an epoch" in one for one in caplog.messages)


def test_a_run_stopped_within_a_probe_measures_again(tmp_path, monkeypatch, undisturbed):
    def check(self):
        calls.append(0)
        if len(calls) == 40:
            self._requested = 15
        original(self)

    calls, original = [], Stop.check
    with monkeypatch.context() as context:
        context.setattr(Stop, "check", check)
        with pytest.raises(StoppedError):
            tiny_run(tmp_path / "run", *FEW)
    assert 0 < checkpoints.latest(tmp_path / "run").step < 11
    tiny_run(tmp_path / "run", *FEW)
    assert content(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("damage", ["torn", "a bit", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, caplog, undisturbed, damage):
    folder = tmp_path / "run"
    stop_at(monkeypatch, 50, folder=folder)  # after the checkpoint at the end of the epoch, step 45
    last = folder / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    if damage == "torn":
        last.write_bytes(data[: len(data) // 2])
    elif damage == "a bit":
        with zipfile.ZipFile(last) as archive:
            at = next(item for item in archive.infolist() if item.filename.endswith("data/0")).header_offset
        data[at + 200] ^= 1
        last.write_bytes(data)
    else:
        last.unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest(folder).step == 45
    assert ("last.ckpt is damaged" in caplog.text) == (damage != "gone")
    assert ("; falling back to previous.ckpt" in caplog.text) == (damage != "gone")
    tiny_run(folder, *FEW)
    assert content(folder) == undisturbed


@pytest.mark.parametrize("name", ["matrices.zarr", "metrics.csv", "train.csv"])
@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_run_that_lacks_records_before_its_checkpoint_is_left_as_it_is(tmp_path, name, damage):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=2", "probe.images=10")
    file = folder / name
    if damage == "missing":
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    else:
        part = file / "probability" / "0.0.0" if file.is_dir() else file
        part.write_bytes(part.read_bytes()[:40])
    entries = state.read(folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}
    with pytest.raises(InputError, match=rf"{name} .*when its checkpoint was written.*; remove .* to start from scra"):
        tiny_run(folder, "trainer.max_steps=3", "probe.images=10")
    assert files == {path: path.read_bytes() for path in files}
    found = state.read(folder)
    assert found.pop("reason")
    assert found == entries


@pytest.mark.parametrize("stop", [20, 50])
def test_without_an_intact_checkpoint_a_run_starts_from_scratch(tmp_path, monkeypatch, caplog, undisturbed, stop):
    folder = tmp_path / "run"
    stop_at(monkeypatch, stop, folder=folder)
    files = sorted((folder / "checkpoints").iterdir())
    assert len(files) == (1 if stop == 20 else 2)
    for file in files:
        file.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest(folder) is None
    messages = [record.message.rpartition("; ")[2] for record in caplog.records]
    assert (
        messages == ["falling back to previous.ckpt", "no intact checkpoint left, starting from scratch"][-len(files) :]
    )
    tiny_run(folder, *FEW)
    assert content(folder) == undisturbed


@pytest.mark.parametrize("limit", ["trainer.max_steps", "trainer.max_epochs"])
def test_a_completed_run_goes_on_when_its_limit_grows(tmp_path, undisturbed, limit):
    """Also where the loss changes at the old end, so that its last probe is not that of the longer run."""
    shorter = [*FEW, "trainer.max_steps=50"] if limit == "trainer.max_steps" else [*FEW, "trainer.max_epochs=1"]
    folder = tiny_run(tmp_path / "run", *shorter)
    tiny_run(folder, *FEW)
    assert content(folder) == undisturbed


def test_a_run_that_kept_no_checkpoint_cannot_grow(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=3", "trainer.keep_checkpoint=false")
    with pytest.raises(InputError, match=r"cannot extend the run in .*: it has no checkpoint"):
        tiny_run(folder, "trainer.max_steps=4", "trainer.keep_checkpoint=false")


def test_a_lost_table_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stop_at(monkeypatch, 20, folder=folder)
    (folder / "train.csv").write_text("")
    with pytest.raises(InputError, match=r"train.csv is shorter than when its checkpoint was written; remove .*run to"):
        tiny_run(folder, *FEW)


def test_threads_stay_those_of_the_start(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stop_at(monkeypatch, 20, "compute.threads=null", folder=folder)
    entries = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**entries, "threads": 1}))
    try:
        tiny_run(folder, *FEW, "compute.threads=null")
        assert json.loads((folder / "run.json").read_text())["threads"] == 1
    finally:
        torch.set_num_threads(1)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    """Every third of the checkpoints cannot be written."""

    def full(path):
        if path.suffix == ".partial" and len(list(path.parent.glob("*.ckpt"))) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_run(tmp_path / "run", *FEW, "trainer.checkpoint_minutes=0")
    assert sorted(file.name for file in (tmp_path / "run" / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert checkpoints.latest(tmp_path / "run").step == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["reason"] == "[Errno 28] No space left on device"


def test_the_network_can_be_loaded_at_any_checkpoint(tmp_path, monkeypatch):
    stop_at(monkeypatch, 20, folder=tmp_path / "run")
    network = igb.load_network(tmp_path / "run", trust=True)
    assert not network.training


def test_writing_a_checkpoint_does_not_count_as_training(tmp_path, monkeypatch):
    def step(self, *arguments):
        now[0] += 1
        return original_step(self, *arguments)

    def save(self, *arguments, **options):
        now[0] += 100
        return original_save(self, *arguments, **options)

    now, original_step, original_save = (
        [0.0],
        experiment.Classifier.training_step,
        StreamingCheckpointIO.save_checkpoint,
    )
    monkeypatch.setattr(experiment.Classifier, "training_step", step)
    monkeypatch.setattr(StreamingCheckpointIO, "save_checkpoint", save)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    speeds = pd.read_csv(tiny_run(tmp_path / "run", *FEW) / "train.csv")["images_per_second"]
    assert speeds.between(29, 32).all()  # a second for a step of 32 images, or 29 in the last of an epoch


def test_checkpoints_cost_what_is_measured(tmp_path):
    folder = tiny_run(tmp_path / "run", *FEW)
    entries = json.loads((folder / "run.json").read_text())
    assert 0 < entries["checkpoint_seconds"] < entries["wall_seconds"]


def test_minutes_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"trainer\.checkpoint_minutes=-1 must be a finite number of at least 0"):
        experiment.build(tiny_config("trainer.checkpoint_minutes=-1"))
