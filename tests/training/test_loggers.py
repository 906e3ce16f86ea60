"""Loggers of Lightning's beside the records."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pytorch_lightning.loggers import CSVLogger

from igb._checks import InputError
from igb.training.loggers import _recorded
from igb.training.records import Records
from tests.conftest import TINY, tiny_run
from tests.helpers.loggers import Memory

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
OPTIONS = ("probe=log", "probe.points=12", "probe.batch_norm=both", "probe.images=50")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """W&B and MLflow write into the current folder, and ask their own variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def expected(folder):
    """What a logger should have of a run, by name and step."""
    found = {}
    metrics = pd.read_csv(folder / "metrics.csv")
    for (step, mode), rows in metrics.groupby(["step", "batch_norm"]):
        found[f"dominance/{mode}", step] = rows["guess_fraction"].max()
        for name in ("probability", "accuracy", "loss", "gradient_norm"):
            found[f"{name}/{mode}/mean", step] = rows[name].mean()
            found[f"{name}/{mode}/3", step] = rows[name].iloc[3]
    for row in pd.read_csv(folder / "train.csv").itertuples():
        found["train/loss", row.step] = row.loss
    return found


def of_csv(file):
    table = pd.read_csv(file).melt("step").dropna()
    return {(row.variable, row.step): row.value for row in table.itertuples()}


def check(found, folder, classes=True):
    wanted = {key: value for key, value in expected(folder).items() if classes or not key[0].endswith("/3")}
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    assert {step for _, step in found} == {step for _, step in wanted}
    assert any(name.endswith("/4") for name, _ in found) is classes


@pytest.mark.parametrize("classes", [True, False])
def test_a_table_of_lightning_has_the_probes_the_losses_and_the_config(tmp_path, classes):
    folder = tiny_run(
        tmp_path / "run", "logger=csv", f"logger.classes={str(classes).lower()}", "trainer.max_steps=60", *OPTIONS
    )
    (file,) = folder.glob("logger/*/metrics.csv")
    check(of_csv(file), folder, classes)
    assert "lr: 0.001" in (file.parent / "hparams.yaml").read_text()


def test_each_process_has_a_table_of_the_whole_run(tmp_path):
    for steps in (20, 60):
        folder = tiny_run(tmp_path / "run", "logger=csv", f"trainer.max_steps={steps}", *OPTIONS)
    first, second = sorted(folder.glob("logger/*/metrics.csv"))
    check(of_csv(second), folder)
    assert max(step for _, step in of_csv(first)) == 20


def test_a_logger_may_come_change_and_go(tmp_path):
    for steps, logger in ((20, "none"), (40, "csv"), (60, "none")):
        folder = tiny_run(tmp_path / "run", f"logger={logger}", f"trainer.max_steps={steps}", *OPTIONS)
    (file,) = folder.glob("logger/*/metrics.csv")
    assert {step for _, step in of_csv(file)} >= {0, 1, 20, 40}


def test_a_logger_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, caplog):
    calls = []

    def failing(self, metrics, step):
        calls.append(step)
        if step == 5:
            raise ConnectionError("no\nserver")

    monkeypatch.setattr(CSVLogger, "log_metrics", failing)
    folder = tiny_run(tmp_path / "run", "logger=csv", "trainer.max_steps=20", *OPTIONS)
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    assert "the logger gets no more of this run (ConnectionError: no server)" in caplog.text
    assert calls[-1] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["logger=csv", "logger.classes=1"], "logger.classes=1 must be true or false"),
        (["logger=csv", "+logger.given.place=save_dir"], "logger.given.place must be one of folder, label, run"),
        (["logger=csv", "+logger.x=1"], "logger: TypeError: .*unexpected keyword argument 'x'"),
    ],
)
def test_bad_loggers_are_named_before_the_run(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        tiny_run(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_logger_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    def offline(self):
        raise ConnectionError("no server")

    monkeypatch.setattr(CSVLogger, "experiment", property(offline))
    with pytest.raises(InputError, match="logger: ConnectionError: no server"):
        tiny_run(tmp_path / "run", "logger=csv", "trainer.max_steps=1")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def in_memory(folder, steps, kind="Memory"):
    own = ["logger=none"] if kind is None else ["logger=wandb", f"logger._target_=tests.helpers.loggers.{kind}"]
    return tiny_run(folder, *own, f"trainer.max_steps={steps}", *OPTIONS)


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr(Memory, "runs", {})
    monkeypatch.setattr(Memory, "finished", [])
    return Memory.runs


@pytest.mark.parametrize(
    "between", ["Memory", "Other", *(pytest.param(one, marks=pytest.mark.slow) for one in (None, "lost"))]
)
def test_a_run_goes_on_in_the_loggers_run_if_that_has_all_before(tmp_path, runs, between, caplog):
    """With another logger between, or without one, or where it is not found, another run begins, with all."""
    in_memory(tmp_path / "run", 20)
    if between == "lost":
        del runs["run 0"]
    else:
        in_memory(tmp_path / "run", 40, between)
    folder = in_memory(tmp_path / "run", 60)
    last = list(runs.values())[-1]
    assert len(runs) == {"Memory": 1, "Other": 3, None: 2, "lost": 1}[between]
    assert set(last) == {*expected(folder), *last}
    assert sorted(last) == sorted(set(last))  # nothing twice
    assert last.count(("parameters", -1)) == 1
    assert {step for name, step in last if name == "train/loss"} == set(range(1, 61))
    assert ("does not go on with its run run 0" in caplog.text) is (between == "lost")
    assert set(Memory.finished) == {0}


def test_what_came_after_the_checkpoint_counts_as_not_logged(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=20", *OPTIONS)
    metrics, train = ((folder / f"{name}.csv").read_bytes() for name in ("metrics", "train"))
    kept = {"metrics": metrics.index(b"\n5,") + 1, "train": train.index(b"\n5,") + 1}
    probes = {(step, mode) for step in range(5) for mode in ("running", "batch")}
    assert set(_recorded(folder, kept)) == probes | {(step, "") for step in range(1, 5)}


def test_the_loggers_run_ends_where_the_run_cannot_begin(tmp_path, runs, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Records, "_delete_events", full)
    with pytest.raises(OSError, match="No space left"):
        in_memory(tmp_path / "run", 1)
    assert Memory.finished == [1]


def command(folder, *options):
    """Run the command in a process of its own, which says whether it imported W&B or MLflow."""
    code = (
        "import sys; from igb import cli; cli.main(); "
        "print([name for name in ('wandb', 'mlflow', 'pytorch_lightning') if name in sys.modules])"
    )
    arguments = [*TINY, *OPTIONS, *options, f"hydra.run.dir={folder}"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


@pytest.mark.slow
def test_no_logger_is_imported_unless_chosen(tmp_path):
    assert command(tmp_path / "run", "trainer.max_steps=1") == "['pytorch_lightning']"


def records_of_wandb(content):
    """The records of its file, a log of LevelDB: blocks of parts with checksum, length and place in their record."""
    block, place, found = 1 << 15, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # too short for a header
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        found += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield found
            found = b""


@pytest.mark.slow
def test_an_offline_run_of_wandb_goes_on_after_a_stop(tmp_path):
    from wandb.proto import wandb_internal_pb2

    folder = tmp_path / "run"
    ids = []
    for steps in (20, 60):
        options = ("logger=wandb", "logger.offline=true", f"trainer.max_steps={steps}")
        assert "'wandb'" in command(folder, *options)
        ids.append(json.loads((folder / "run.json").read_text())["logger_run"]["run"])
    assert ids[0] == ids[1]
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{ids[0]}"] * 2
    found, configs, exits = {}, [], []
    for file in files:
        for data in records_of_wandb(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for name, value in items.items():
                if "/" in name and not name.startswith("trainer"):
                    assert (name, int(items["trainer/global_step"])) not in found  # nothing twice
                    found[name, int(items["trainer/global_step"])] = float(value)
            configs += [item.value_json for item in record.config.update if item.key == "optimizer"]
            if record.WhichOneof("record_type") == "exit":
                exits.append(record.exit.exit_code)
    check(found, folder)
    assert [json.loads(text)["lr"] for text in configs] == [0.001]
    assert exits == [0, 0]


@pytest.mark.slow
def test_a_local_database_of_mlflow_goes_on_after_a_stop(tmp_path):
    folder = tmp_path / "run"
    for steps in (20, 60):
        assert "'mlflow'" in command(folder, "logger=mlflow", f"trainer.max_steps={steps}")
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("igb").experiment_id])
history = {
    name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
}
print(json.dumps([run.info.run_id, run.info.status, run.data.params, history]))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    run, status, parameters, history = json.loads(said.splitlines()[-1])
    assert (run, status) == (json.loads((folder / "run.json").read_text())["logger_run"]["run"], "FINISHED")
    assert parameters["optimizer/lr"] == "0.001"
    points = [(name, step) for name, values in history.items() for step, _ in values]
    assert len(points) == len(set(points))
    check({(name, step): value for name, values in history.items() for step, value in values}, folder)


@pytest.mark.slow
def test_every_job_of_a_sweep_has_its_own_run_of_wandb(tmp_path):
    arguments = [*TINY, *OPTIONS, "logger=wandb", "logger.offline=true", "trainer.max_steps=1", "seed=0,1", "name=w"]
    ended = subprocess.run(
        [sys.executable, "-m", "igb", "--multirun", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert ended.returncode == 0, ended.stderr
    runs = [json.loads(file.read_text())["logger_run"]["run"] for file in Path("multirun/w").glob("*/run.json")]
    assert len(set(runs)) == 2
