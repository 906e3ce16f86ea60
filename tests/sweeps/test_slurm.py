"""Sweeps on a real SLURM of one node, disturbed in every way that clusters know; needs root: `make test-slurm`."""

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from igb._paths import quoted
from tests.conftest import TINY
from tests.helpers.faults import content
from tests.helpers.slurm_cluster import Cluster

pytestmark = pytest.mark.slurm
SWEEP = [
    "--multirun", "hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.memory=2GB",
    "hydra.launcher.poll_seconds=2", "name=sweep", *TINY, "+model.dropout=0.3", "optimizer.momentum=0.9",
]  # fmt: skip
SHORT = ("probe=log", "trainer.max_epochs=2")
LONG = ("probe=log", "probe.images=50", "trainer.max_epochs=80")  # long enough to be disturbed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.fail("SLURM's daemons need root")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Sweep:
    """An `igb --multirun` on the cluster, in a folder of its own."""

    def __init__(self, cluster, folder, *overrides):
        self.cluster, self.folder = cluster, folder
        self.command = [sys.executable, "-m", "igb", *SWEEP, *overrides]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=self.cluster.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
        )  # fmt: skip

    def end(self, seconds=300):
        """Exit status and output."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output

    def runs(self):
        """Folder and run.json of each run that has begun, by its loss."""
        files = sorted((self.folder / "multirun" / "sweep").glob("*/run.json"))
        return {file.parent.name.partition("loss=")[2].partition(",")[0]: file.parent for file in files}

    def wait_for_steps(self, loss, count=100):
        """Wait until a run has recorded some steps of training."""
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline
            file = self.runs().get(loss, self.folder) / "train.csv"
            if file.exists() and file.read_text().count("\n") > count:
                return
            time.sleep(0.2)

    def job(self, loss):
        """The id of the job of a run."""
        for file in (self.folder / "multirun" / "sweep" / "slurm").glob("*/runs.json"):
            names = json.loads(file.read_text())
            for line in self.cluster.run("squeue", "--noheader", "--array", "--format", "%i %k").splitlines():
                identity, comment = line.split(" ", 1)
                if Path(comment) == file.parent and f"loss={loss}," in names[int(identity.partition("_")[2] or 0)]:
                    return identity
        raise AssertionError(f"no job of loss={loss} is in the queue")


@functools.cache
def undisturbed(*overrides):
    """What a run leaves when nothing comes between, on the same machine without SLURM."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "igb", *overrides, f"hydra.run.dir={folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        return content(Path(folder) / "run")


def unquoted(line):
    return shlex.split(line)[0] if line.startswith("'") else line


def check(sweep, *losses):
    for loss in losses:
        folder = sweep.runs()[loss]
        lines = (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
        assert content(folder) == undisturbed(*(unquoted(line[2:].strip()) for line in lines)), loss


def resumed(sweep, loss):
    return json.loads((sweep.runs()[loss] / "run.json").read_text()).get("resumed", [])


def test_a_sweep_runs_to_its_end(cluster, tmp_path):
    python = quoted(shlex.join(["env", "IN=container", sys.executable]))
    sweep = Sweep(cluster, tmp_path, *SHORT, "loss=ce,bl,pz", f"hydra.launcher.python={python}")
    status, output = sweep.end()
    assert status == 0, output
    assert "igb: 3 jobs submitted, 0 already in the queue\n" in output
    assert "igb: 3 completed, 0 diverged, 0 failed\n" in output
    (script,) = (tmp_path / "multirun" / "sweep" / "slurm").glob("*/[0-9]*_submission.sh")
    assert f" env IN=container {shlex.quote(sys.executable)} -u -m submitit" in script.read_text()
    check(sweep, "ce", "bl", "pz")


def test_a_job_at_its_time_limit_is_queued_again_and_finishes(cluster, tmp_path):
    """In the middle of epoch one."""
    limits = ("hydra.launcher.time=2", "hydra.launcher.signal_seconds=30")  # sent up to a minute early
    # Of two seconds each, so that the last comes after the latest that the signal can.
    slow = ("model._target_=tests.helpers.networks.Slow", "trainer.max_steps=44", "probe=log", "probe.images=50")
    sweep = Sweep(cluster, tmp_path, *slow, *limits, "loss=ce")
    status, output = sweep.end(580)
    assert status == 0, output
    assert 0 < resumed(sweep, "ce")[0] < 44
    check(sweep, "ce")


def test_a_cancelled_job_is_seen_and_hides_no_other(cluster, tmp_path):
    sweep = Sweep(cluster, tmp_path, *LONG, "loss=ce,pz")
    sweep.wait_for_steps("pz")
    cluster.run("scancel", sweep.job("pz"))
    status, output = sweep.end()
    assert status == 1
    assert "igb: 1 completed, 0 diverged, 1 failed\n" in output
    assert "loss=pz" in next(line for line in output.splitlines() if line.startswith("igb: failed:"))
    sweep.start()
    status, output = sweep.end()
    assert status == 0, output
    assert "igb: 1 of 2 runs are already finished\n" in output
    assert len(resumed(sweep, "pz")) == 1
    check(sweep, "ce", "pz")


def test_jobs_that_slurm_takes_away_go_on(cluster, tmp_path):
    """One that is queued again and one that is preempted; SLURM holds both for a while."""
    sweep = Sweep(cluster, tmp_path, *LONG, "loss=bl,pz")
    sweep.wait_for_steps("bl")
    sweep.wait_for_steps("pz")
    cluster.run("scontrol", "requeue", sweep.job("bl"))
    cluster.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    status, output = sweep.end(580)
    assert status == 0, output
    assert [len(resumed(sweep, loss)) for loss in ("bl", "pz")] == [1, 1]
    check(sweep, "bl", "pz")


def test_the_devices_of_a_job_stop_and_go_on_together(cluster, tmp_path):
    """As before its time limit, or a preemption."""
    sweep = Sweep(
        cluster, tmp_path, *LONG[:-1], "trainer.max_epochs=40", "trainer.devices=2", "trainer.strategy=ddp", "loss=ce"
    )
    sweep.wait_for_steps("ce")
    cluster.run("scancel", "--signal=USR2", sweep.job("ce"))
    status, output = sweep.end(580)
    assert status == 0, output
    assert len(resumed(sweep, "ce")) == 1
    assert json.loads((sweep.runs()["ce"] / "run.json").read_text())["devices"] == 2
    check(sweep, "ce")


def test_a_killed_process_is_seen_and_its_sweep_goes_on(cluster, tmp_path):
    sweep = Sweep(cluster, tmp_path, *LONG, "trainer.checkpoint_minutes=0.01", "loss=ce")
    sweep.wait_for_steps("ce")
    for process in Path("/proc").glob("[0-9]*"):
        words = (process / "cmdline").read_bytes() if (process / "cmdline").exists() else b""
        if b"submitit.core._submit" in words and str(tmp_path).encode() in words and not words.startswith(b"srun"):
            os.kill(int(process.name), signal.SIGKILL)
    started = time.monotonic()
    status, output = sweep.end(60)
    assert time.monotonic() - started < 60
    assert status == 1
    assert "igb: 0 completed, 0 diverged, 1 failed\n" in output
    sweep.start()
    status, output = sweep.end()
    assert status == 0, output
    assert len(resumed(sweep, "ce")) == 1
    check(sweep, "ce")


def test_a_launcher_that_is_killed_finds_its_jobs_again(cluster, tmp_path):
    sweep = Sweep(cluster, tmp_path, *LONG, "loss=ce,pz")
    sweep.wait_for_steps("pz")
    sweep.process.kill()
    sweep.process.communicate()
    sweep.start()
    status, output = sweep.end()
    assert status == 0, output
    assert "igb: 0 jobs submitted, 2 already in the queue\n" in output
    assert not resumed(sweep, "ce") + resumed(sweep, "pz")
    check(sweep, "ce", "pz")


def test_ctrl_c_leaves_the_jobs_alone(cluster, tmp_path):
    sweep = Sweep(cluster, tmp_path, *LONG, "loss=ce")
    sweep.wait_for_steps("ce")
    job = sweep.job("ce")
    sweep.process.send_signal(signal.SIGINT)
    status, output = sweep.end()
    assert status == 130
    assert f"igb: the jobs keep running; cancel them with: scancel {job.partition('_')[0]}\n" in output
    assert "Traceback" not in output
    assert job in cluster.run("squeue", "--noheader", "--array", "--format", "%i")
    cluster.run("scancel", job)


def test_a_refused_submission_is_one_line(cluster, tmp_path):
    sweep = Sweep(cluster, tmp_path, *SHORT, "hydra.launcher.partition=nowhere", "loss=ce,pz")
    status, output = sweep.end()
    assert status == 1
    assert "Traceback" not in output
    assert "igb: SLURM refused the jobs: sbatch: error: invalid partition specified: nowhere" in output
