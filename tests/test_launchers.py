import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igb import folders
from tests.conftest import TINY
from tests.test_docs import ROOT, write_files

LOCAL = ["--multirun", "hydra/launcher=local", *TINY[:-1], "probe=log", "name=mine"]  # threads are the launcher's


def runs(folder=Path("multirun/mine")):
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


def test_a_killed_process_is_the_failure_of_its_job_alone(command):
    targets = "model._target_=tests.networks.Tiny,tests.networks.Killed"
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
    assert runs()[tiny.name]["threads"] == max(1, folders.cores() // 2)
    assert (tiny / ".hydra" / "overrides.yaml").exists()


def test_sigterm_stops_the_jobs_too_and_the_same_command_goes_on(tmp_path):
    arguments = [sys.executable, "-m", "igb", *LOCAL, "seed=0,1", "trainer.max_epochs=300"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "multirun" / "mine"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/train.csv"))) < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in output
    assert {run["status"] for run in runs(folder).values()} == {"interrupted"}
    assert not any(folders.in_use(file.parent) for file in folder.glob("*/run.json"))


@pytest.mark.parametrize("n_jobs", ["0", "two"])
def test_n_jobs_out_of_range_is_refused(command, n_jobs):
    status, output = command(*LOCAL, f"hydra.launcher.n_jobs={n_jobs}", "seed=0,1")
    assert status == 1
    assert f"hydra.launcher.n_jobs={n_jobs} must be a whole number of at least 1" in output
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
    assert "igb: hydra/launcher=slurm needs the commands of SLURM, such as sbatch and srun\n" in output
    assert not runs()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("time=0", "hydra.launcher.time=0 must be a whole number of at least 1"),
        ("signal_seconds=99999", "hydra.launcher.signal_seconds=99999 must be a whole number from 0 to 14400"),
        ("parallel=0", "hydra.launcher.parallel=0 must be a whole number of at least 1"),
    ],
)
def test_fields_of_slurm_out_of_range_are_refused(command, override, message):
    status, output = command("--multirun", "hydra/launcher=slurm", f"hydra.launcher.{override}", *TINY, "seed=0,1")
    assert status == 1
    assert message in output
