import json
import os
import shlex
import socket
import subprocess
import sys

import pandas as pd
import pytest
import torch

import igb
from igb._checks import InputError
from igb.report.runs import read_metrics
from igb.sweeps.jobs import refuse_several_devices
from tests.conftest import TINY, tiny_config
from tests.helpers.faults import content
from tests.helpers.pages import ROOT, commands
from tests.helpers.slurm_cluster import free_port


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.helpers.devices", str(folder)],
        cwd=ROOT, env={**os.environ, **cache}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("apart", "two"),
        ("linear-1", "linear-3"),
        ("noisy-1", "noisy-3"),
        ("learned-1", "learned-3"),
        ("linear-1", "linear-2x2"),
    ],
)
def test_devices_train_and_measure_as_one_that_normalises_each_shard_apart(runs, one, several):
    """And as one in all else, where there is no batch norm."""
    expected, found = (read_metrics(runs / name / "metrics.csv", 10) for name in (one, several))
    pd.testing.assert_frame_equal(found[found["step"] == 0], expected[expected["step"] == 0], rtol=1e-12, atol=1e-15)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)
    expected, found = (pd.read_csv(runs / name / "train.csv").iloc[:, :-1] for name in (one, several))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    assert expected["step"].tolist() == list(range(1, 35))


@pytest.mark.slow
def test_devices_memorise_as_one(runs):
    one, three = (pd.read_csv(runs / name / "memorisation.csv") for name in ("noisy-1", "noisy-3"))
    numbers = one.columns[5:]
    pd.testing.assert_frame_equal(three.drop(columns=numbers), one.drop(columns=numbers))
    is_start = one["step"] == 0
    pd.testing.assert_frame_equal(three.loc[is_start, numbers], one.loc[is_start, numbers], rtol=1e-12, atol=1e-15)
    pd.testing.assert_frame_equal(three[numbers], one[numbers], atol=0.021)  # a hundred images, of which one may differ


@pytest.mark.slow
def test_the_first_device_alone_writes(runs):
    assert {file.name for file in (runs / "two").iterdir() if "tfevents" not in file.name} == {
        file.name for file in (runs / "apart").iterdir() if "tfevents" not in file.name
    }
    assert len(list((runs / "two").glob("*tfevents*"))) == 1
    assert json.loads((runs / "two" / "run.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_devices_stop_together_and_go_on_to_the_same_numbers(runs):
    assert len(json.loads((runs / "stopped" / "run.json").read_text())["resumed"]) == 1
    assert content(runs / "stopped") == content(runs / "undisturbed")


@pytest.mark.slow
def test_nodes_are_devices_and_resume_too(runs):
    """Two nodes of one device, from a checkpoint on, beside one node of two without a stop."""
    assert json.loads((runs / "nodes" / "run.json").read_text())["resumed"] == [20]
    assert (runs / "nodes" / "metrics.csv").read_bytes() == (runs / "two" / "metrics.csv").read_bytes()
    assert (runs / "linear-2x2" / "run.json").exists()
    assert json.loads((runs / "linear-2x2" / "run.json").read_text())["devices"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["running", "batch"])
@pytest.mark.parametrize("chunk", [10, 30])
def test_processes_measure_together_what_each_would_alone(runs, mode, chunk):
    alone, *others = (torch.load(file) for file in sorted(runs.glob(f"{mode}-{chunk}-*.pt")))
    assert len(others) == 5
    for other in others:
        torch.testing.assert_close(other, alone, rtol=1e-14, atol=1e-15)


@pytest.mark.slow
def test_the_command_starts_a_process_for_each_device(tmp_path):
    (line,) = (line for line in commands(ROOT / "docs" / "use.md") if "trainer.devices" in line)
    command = [sys.executable, "-m", *shlex.split(line), *TINY[:-1]]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with socket.create_server(("127.0.0.1", 0)) as taken:  # what others left behind is of no use to a run of its own
        environment |= {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "3"}
        environment |= {"NODE_RANK": "one", "WORLD_SIZE": "", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "x"}
        ended = subprocess.run(
            [*command, "trainer.max_steps=1", "probe=log", f"hydra.run.dir={tmp_path}/a run"], cwd=ROOT,
            env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert [line.partition(":")[0] for line in ended.stdout.splitlines()] == ["plan", "epoch 1 of 1", "completed"]
    assert ended.stderr == f"igb {igb.__version__}: loading torch\n"
    assert [file.name for file in (tmp_path / "a run").glob("*.log")] == ["igb.log"]
    assert json.loads((tmp_path / "a run" / "run.json").read_text())["threads"] == max(1, (os.cpu_count() or 1) // 2)


@pytest.mark.slow
def test_torchrun_starts_a_run_on_every_node(tmp_path):
    (line,) = (line for line in commands(ROOT / "docs" / "clusters.md") if line.startswith("torchrun"))
    line = line.replace("=node1", "=127.0.0.1").replace("=29500", f"={free_port()}").replace("outputs", str(tmp_path))
    line = line.replace("per-node=4", "per-node=1").replace("devices=4", "devices=1")
    commands_ = [
        [sys.executable, "-m", "torch.distributed.run", *shlex.split(text)[1:], *TINY, "trainer.max_steps=1"]
        for text in (line, line.replace("node-rank=0", "node-rank=1"))
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    nodes = [subprocess.Popen([*each, "probe=log"], cwd=ROOT, text=True, **pipes) for each in commands_]
    said = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    entries = json.loads((tmp_path / "both" / "run.json").read_text())
    assert (entries["status"], entries["devices"]) == ("completed", 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=0"], "igb: trainer.devices=0 must be a whole number of at least 1\n"),
        (["trainer.num_nodes=0"], "igb: trainer.num_nodes=0 must be a whole number of at least 1\n"),
        (
            ["trainer.num_nodes=2"],
            "igb: trainer.num_nodes=2 needs hydra/launcher=slurm, or torchrun on each node; see docs/clusters.md\n",
        ),
        (["trainer.strategy=fsdp"], "igb: trainer.strategy=fsdp must be one of auto, ddp\n"),
        (
            ["trainer.devices=2", "data.batch_size=3"],
            "igb: data.batch_size=3 must be at least 4 for a network with batch norm on each of 2 devices\n",
        ),
        (["--multirun", "trainer.devices=2"], "igb: trainer.devices=2 in a sweep needs hydra/launcher=slurm\n"),
        (
            ["--multirun", "trainer.devices=1,2", "hydra/launcher=local"],
            "igb: trainer.devices=2 in a sweep needs hydra/launcher=slurm\n",
        ),
    ],
)
def test_what_devices_cannot_do_is_refused_in_one_line(command, overrides, message):
    status, output = command(*overrides, *TINY)
    assert status == 1
    assert output == message


def test_a_sweep_of_torchrun_is_refused():
    with pytest.raises(InputError, match=r"trainer\.num_nodes=2 in a sweep needs hydra/launcher=slurm"):
        refuse_several_devices([tiny_config(), tiny_config("trainer.num_nodes=2")])


def test_a_batch_too_small_to_share_is_refused_before_training(command):
    status, output = command(*TINY, "trainer.devices=2", "data.batch_size=239", "hydra.run.dir=run")  # 3 are left over
    assert status == 1
    assert "igb: data.batch_size=239 leaves a batch of 3 images, too few for 2 on each of 2 devices\n" in output
    assert "Traceback" not in output
