import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from igb import _slurm
from igb._paths import config_folder
from igb.folder import lock
from igb.sweeps import local, slurm
from igb.sweeps.jobs import Job
from igb.training import checkpoints
from tests.conftest import TINY
from tests.helpers.pages import ROOT, write_files

LOCAL = ["--multirun", "hydra/launcher=local", *TINY[:-1], "probe=log", "name=mine"]  # threads are the launcher's


def runs(folder=Path("multirun/mine")):
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


@pytest.mark.slow
def test_a_killed_process_is_the_failure_of_its_job_alone(command):
    targets = "model._target_=tests.helpers.networks.Tiny,tests.helpers.networks.Killed"
    status, output = command(*LOCAL, "trainer.max_steps=2", targets)
    assert status == 1
    failed = [line for line in output.splitlines() if line.startswith("igb: failed:")]
    assert len(failed) == 1
    assert "Killed" in failed[0]
    assert ": killed by SIGKILL; see multirun/mine/" in failed[0]
    assert "igb: 1 completed, 0 diverged, 1 failed\n" in output
    (tiny,) = (folder for folder in Path("multirun/mine").iterdir() if "Tiny" in folder.name)
    log = (tiny / "igb.log").read_text()
    assert log.count("plan: ") == log.count("completed: ") == 1
    assert runs()[tiny.name]["threads"] == max(1, local.cores() // 2)
    assert (tiny / ".hydra" / "overrides.yaml").exists()


@pytest.mark.slow
def test_jobs_have_the_config_folder_of_the_sweep(command, tmp_path):
    own = shutil.copytree(config_folder(), tmp_path / "own")
    (own / "optimizer" / "sgd.yaml").write_text("_target_: igb.training.sgd\nlr: 0.125\n")
    status, output = command("--config-path", str(own), *LOCAL, "trainer.max_epochs=0")
    assert status == 0, output
    (run,) = runs().values()
    assert run["config"]["optimizer"]["lr"] == 0.125


@pytest.mark.slow
def test_ctrl_c_stops_the_jobs_at_a_checkpoint_each(tmp_path):
    """A terminal gives it to all processes of its foreground at once."""
    arguments = [sys.executable, "-m", "igb", *LOCAL, "seed=0,1", "trainer.max_epochs=300"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    folder = tmp_path / "multirun" / "mine"
    deadline = time.monotonic() + 120
    while len([file for file in folder.glob("*/train.csv") if file.read_text().count("\n") > 50]) < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert {run["status"] for run in runs(folder).values()} == {"interrupted"}
    for run in folder.glob("*/run.json"):
        assert not lock.in_use(run.parent)
        last = int((run.parent / "train.csv").read_text().splitlines()[-1].partition(",")[0])
        assert checkpoints.latest(run.parent).step == last


@pytest.mark.parametrize("n_jobs", ["0", "two"])
def test_n_jobs_out_of_range_is_refused(command, n_jobs):
    status, output = command(*LOCAL, f"hydra.launcher.n_jobs={n_jobs}", "seed=0,1")
    assert status == 1
    assert output == f"igb: hydra.launcher.n_jobs={n_jobs} must be a whole number of at least 1\n"
    assert not runs()


def test_a_cluster_is_one_small_file(command, tmp_path):
    write_files(ROOT / "docs" / "clusters.md", tmp_path)
    status, output = command("--config-dir", "site", "hydra/launcher=uni", "--cfg", "hydra", "-p", "hydra.launcher")
    assert status == 0, output
    assert "account: physics" in output
    assert "signal_seconds: 120" in output


def test_slurm_without_its_commands_is_one_line(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, output = command("--multirun", "hydra/launcher=slurm", *TINY, "seed=0,1", "name=mine")
    assert status == 1
    assert output == "igb: hydra/launcher=slurm: sbatch or srun not found on PATH\n"
    assert not Path("multirun").exists()


def test_jobs_of_several_nodes_ask_for_them(command, monkeypatch, tmp_path):
    for name, text in {
        "sbatch": f"cat $1 > {tmp_path}/asked; echo 'Submitted batch job 7'", "srun": "true", "squeue": "true",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "PATIENCE", 0)
    launcher = [
        "hydra/launcher=slurm",
        "hydra.launcher.nodes=2",
        "hydra.launcher.gpus=3",
        "hydra.launcher.poll_seconds=0.1",
    ]
    status, output = command("--multirun", *launcher, *TINY, "trainer.devices=3", "trainer.num_nodes=2", "name=mine")
    assert status == 1  # as nothing ran
    assert "igb: 1 jobs submitted" in output
    asked = (tmp_path / "asked").read_text()
    for option in ("--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=3"):
        assert f"#SBATCH {option}\n" in asked


def test_a_finished_sweep_needs_no_slurm(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--multirun", *TINY, "trainer.max_epochs=0", "seed=0,1", "name=mine"]
    assert command(*arguments)[0] == 0
    status, output = command(*arguments, "hydra/launcher=slurm")
    assert status == 0, output
    assert "igb: 2 of 2 runs are already finished\n" in output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("time=0", "hydra.launcher.time=0 must be a whole number of at least 1"),
        ("signal_seconds=99999", "hydra.launcher.signal_seconds=99999 must be a whole number from 0 to 14399"),
        ("setup=module load cuda", "hydra.launcher.setup=module load cuda must be a list of shell commands"),
        ("options=abc", "hydra.launcher.options=abc must be a mapping of sbatch options to values"),
        ("+options.comment=x", "hydra.launcher.options.comment=x is set by igb and cannot be overridden"),
        ("gpus=2", "hydra.launcher.gpus=2 must equal trainer.devices (1) or be 0"),
        ("nodes=2", "hydra.launcher.nodes=2 must equal trainer.num_nodes (1) or be null"),
        ("nodes=0", "hydra.launcher.nodes=0 must be a whole number of at least 1"),
        ("parallel=0", "hydra.launcher.parallel=0 must be a whole number of at least 1"),
        ("poll_seconds=0", "hydra.launcher.poll_seconds=0 must be a finite number of at least 0.1"),
    ],
)
def test_fields_of_slurm_out_of_range_are_refused(command, override, message):
    plus, key = ("+", override[1:]) if override.startswith("+") else ("", override)
    status, output = command("--multirun", "hydra/launcher=slurm", f"{plus}hydra.launcher.{key}", *TINY, "seed=0,1")
    assert status == 1
    assert output.splitlines()[-1] == f"igb: {message}"
    assert "Traceback" not in output


def test_a_cluster_has_what_the_login_node_lacks(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["hydra/launcher=slurm", *TINY, "seed=0,1", "trainer.devices=2", "trainer.accelerator=gpu"]
    status, output = command("--multirun", *[item for item in arguments if item != "trainer.accelerator=cpu"])
    assert status == 1
    assert "igb: hydra/launcher=slurm: sbatch or srun not found" in output  # the first that is amiss


def test_jobs_are_shown_with_what_keeps_them_from_starting():
    assert _slurm.Job("7|PENDING|PartitionTimeLimit|x").state_text == "pending (PartitionTimeLimit)"
    assert _slurm.Job("7|PENDING|Resources|x").state_text == "pending"
    assert _slurm.Job("7_2|RUNNING|None|a|b").comment == "a|b"


def test_submissions_do_not_inherit_the_job_they_come_from(monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
    with slurm._out_of_a_job():
        assert os.environ["SBATCH_ACCOUNT"] == "physics"
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1", "SLURM_CONF": "here"}.items():
        monkeypatch.setenv(name, value)
    with slurm._out_of_a_job():
        assert [name for name in os.environ if name.startswith("SLURM")] == ["SLURM_CONF"]
    assert os.environ["SLURM_JOB_ID"] == "7"


@pytest.mark.parametrize(("elapsed", "advanced", "again"), [(0, False, True), (99, False, False), (99, True, True)])
def test_a_job_is_queued_again_unless_its_whole_time_was_too_short(tmp_path, monkeypatch, elapsed, advanced, again):
    """What the log says, as the process would end as the task of a job."""
    code = f"""
import os, sys, time
from igb import cli, _slurm
from igb.folder.schema import checkpoint_path
from igb.sweeps import slurm
from pathlib import Path
_slurm.requeue = lambda: print("asked")
def main():
    if {advanced}:
        checkpoint_path(Path(".")).parent.mkdir()
        checkpoint_path(Path(".")).touch()
    slurm.time.monotonic = lambda clock=time.monotonic: clock() + {elapsed}
    sys.exit(128 + slurm.signal.SIGUSR2)
cli.main = main
slurm.slurm_job([], Path("."), 100)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert ended.returncode == 1
    said = (tmp_path / "igb.log").read_text()
    assert ("asked\n" in said, "hydra.launcher.time is too short" in said) == (again, not again)


def test_a_job_that_is_told_to_stop_while_it_starts_is_queued_again(tmp_path):
    """Within what Hydra calls and imports, and would report as an error of theirs."""
    code = f"""
import signal
from pathlib import Path
from igb import cli, _slurm
from igb.sweeps import slurm
_slurm.requeue = lambda: print("asked")
cli.check_jobs = lambda *_: signal.raise_signal(signal.SIGUSR2)
slurm.slurm_job({[*TINY, "trainer.max_steps=0"]!r}, Path("."), 100)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert (ended.returncode, (tmp_path / "igb.log").read_text()) == (1, "asked\n")


class Started:
    """A process that ends when it is looked at for the second time."""

    def __init__(self, arguments, env, **_):
        self.arguments, self.env, self.looks, self.returncode = arguments, env, 0, 0

    def poll(self):
        self.looks += 1
        return None if self.looks < 2 else 0


@pytest.mark.parametrize(
    ("cards", "accelerators", "expected"),
    [
        (["0", "1"], ["gpu"] * 5, ["0", "1", "0", "0", "1"]),  # three at a time, dealt anew as they end
        (["GPU-a"], ["auto", "cuda"], ["GPU-a", "GPU-a"]),
        (["0", "1"], ["cpu", "gpu", "gpu"], ["before", "0", "1"]),
        ([], ["auto"], ["before"]),
    ],
)
def test_jobs_are_dealt_to_the_cards(tmp_path, monkeypatch, cards, accelerators, expected):
    started = []

    def start(*arguments, **options):
        started.append(Started(*arguments, **options))
        return started[-1]

    jobs = [
        Job(
            str(number),
            OmegaConf.create({"trainer": {"accelerator": name}, "hydra": {"overrides": {"task": []}}}),
            tmp_path,
            [],
        )
        for number, name in enumerate(accelerators)
    ]
    (tmp_path / "run.json").write_text('{"status": "completed"}')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    monkeypatch.setattr(local, "visible_cards", lambda: cards)
    monkeypatch.setattr(local.LocalLauncher, "jobs", lambda self, overrides, first: jobs)
    monkeypatch.setattr(local.subprocess, "Popen", start)
    monkeypatch.setattr(local, "LOOK_EVERY", 0)
    monkeypatch.setattr(local, "cores", lambda: 7)
    returns = local.LocalLauncher(3).launch([], 0)
    assert [job.status.name for job in returns] == ["COMPLETED"] * len(jobs)
    assert [process.env["CUDA_VISIBLE_DEVICES"] for process in started] == expected
    assert {process.env["OMP_NUM_THREADS"] for process in started} == {"2"}


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [(None, 2, ["0", "1"]), ("3, 1", 2, ["3", "1"]), ("GPU-a,MIG-b", 2, ["GPU-a", "MIG-b"]), ("", 0, []), ("-1", 0, []),
     ("0,9,1", 1, ["0"]), (None, 0, []), ("MIG-a, MIG-b", 1, ["MIG-a", "MIG-b"]), ("MIG-a", 0, [])],
)  # fmt: skip
def test_the_visible_cards_are_those_of_the_environment(monkeypatch, given, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert local.visible_cards() == expected
