"""What an environment leaves behind reaches into no command of igb."""

import os
import subprocess
import sys

import pytest

import igb
from igb import _slurm
from igb._environment import drop_stale_variables, number, slurm_tasks
from igb.folder.state import read
from igb.sweeps.jobs import label_of
from tests.conftest import TINY
from tests.helpers.runs import made_run

GROUP = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TASK = dict.fromkeys(("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"), "2")
TASK |= dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
ODD = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "http",
    "RANK": "", "WORLD_SIZE": "many", "LOCAL_RANK": "3", "NODE_RANK": "-1", "OMP_NUM_THREADS": "all",
    "SLURM_JOB_ID": "x", "SLURM_PROCID": "", "SLURM_NTASKS": "", "SLURM_STEP_NUM_TASKS": "1.5", "SLURM_LOCALID": "0",
    "SLURM_CPUS_PER_TASK": "2(x3)", "SLURM_ARRAY_JOB_ID": "7", "SUBMITIT_EXECUTOR": "", "HOME": "/proc/nowhere",
    # An ASCII locale, which Python would make UTF-8 by itself.
    "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
}  # fmt: skip


@pytest.fixture
def variables(monkeypatch):
    for name in (*GROUP, *TASK, "RANK", "NODE_RANK", "SUBMITIT_EXECUTOR", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)

    def give(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(
    ("given", "devices", "kept"),
    [
        (GROUP, None, True),
        (GROUP, 2, True),
        (GROUP, 1, False),
        (GROUP, 3, False),
        (GROUP | {"WORLD_SIZE": ""}, 2, False),
        (GROUP | {"LOCAL_RANK": "2"}, 2, False),
        (GROUP | {"MASTER_PORT": "http"}, None, False),
        ({"MASTER_ADDR": "192.0.2.1", "RANK": "3"}, None, False),
        (GROUP | TASK, 2, False),  # SLURM's own say where the others are
    ],
)
def test_variables_of_a_group_are_kept_by_its_processes_alone(variables, given, devices, kept):
    variables(**given)
    drop_stale_variables(devices)
    assert all((name in os.environ) == kept for name in GROUP)
    assert kept or "RANK" not in os.environ


@pytest.mark.parametrize(
    ("value", "expected"), [("7", 7), ("0", 0), ("", None), ("-1", None), ("1.5", None), ("²", None)]
)
def test_a_number_is_a_whole_one(variables, value, expected):
    variables(RANK=value)
    assert number("RANK") == expected


def test_a_task_of_slurm_has_all_that_makes_one(variables):
    assert slurm_tasks() == 0
    variables(**TASK)
    assert slurm_tasks() == 2
    variables(SLURM_PROCID="")
    assert slurm_tasks() == 0


@pytest.mark.parametrize(
    ("given", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, None),
        ({"SLURM_JOB_ID": "12", "SUBMITIT_EXECUTOR": "slurm"}, "12"),
        ({"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3", "SUBMITIT_EXECUTOR": "slurm"}, "11_3"),
        ({"SLURM_ARRAY_JOB_ID": "11", "SUBMITIT_EXECUTOR": "slurm"}, None),
        ({"SLURM_JOB_ID": "x", "SUBMITIT_EXECUTOR": "slurm"}, None),
    ],
)
def test_the_job_of_this_process_is_one_of_submitit(variables, given, job):
    variables(**given)
    assert _slurm.own_job() == job


def test_a_line_that_is_no_job_is_passed_over(tmp_path, monkeypatch):
    lines = [
        "slurm_load_jobs: warning",
        "",
        "12_3|RUNNING|None|a|b",
        "13|PENDING",
        "14|COMPLETED|None|",
        "15|PENDING|Priority|",
    ]
    (tmp_path / "squeue").write_text("#!/bin/sh\ncat <<'EOF'\n" + "\n".join(lines) + "\nEOF\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [(job.id, job.comment) for job in _slurm.queue()] == [("12_3", "a|b"), ("15", "")]


@pytest.mark.slow
def test_a_run_and_a_report_of_odd_variables_in_a_folder_of_modules(tmp_path):
    for name in ("random", "profile", "queue", "torch"):  # what Python itself imports to start is another matter
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    environment = {**os.environ, **ODD}
    for arguments in (["-m", "igb", *TINY, "trainer.max_steps=1", "probe.images=10", "hydra.run.dir=run"],):
        ended = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True)
        assert ended.returncode == 0, ended.stderr.decode()
        assert b"Traceback" not in ended.stderr
    assert read(tmp_path / "run")["status"] == "completed"
    made_run(tmp_path / "other", [(0, 0.9, 0.1, 0.8)], class_names=["Tür", "✓"], started="9")
    text = (tmp_path / "other" / "metrics.csv").read_text().replace(",cat,", ",Tür,").replace(",dog,", ",✓,")
    (tmp_path / "other" / "metrics.csv").write_text(text)
    code = "import sys; sys.path.append(sys.path.pop(0)); from igb.cli import report; report()"
    ended = subprocess.run([sys.executable, "-c", code, "other"], cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    page = (tmp_path / "other" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Tür" in page
    assert "p̄" in page


@pytest.mark.slow
def test_a_folder_without_a_home_is_named_where_one_is_needed(tmp_path):
    environment = {**os.environ, "HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}
    arguments = [*TINY, "data=cifar10", "trainer.max_steps=1", "hydra.run.dir=run"]
    ended = subprocess.run(
        [sys.executable, "-m", "igb", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "cache" in ended.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_network_in_the_current_folder_is_one_of_the_jobs_too(tmp_path):
    (tmp_path / "mynet.py").write_text("from tests.helpers.networks import Tiny\n")
    arguments = [
        "--multirun",
        *TINY,
        "hydra/launcher=local",
        "model._target_=mynet.Tiny",
        "trainer.max_steps=1",
        "seed=0,1",
    ]
    ended = subprocess.run([sys.executable, "-m", "igb", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", ["SLURM_PROCID", "RANK", "LOCAL_RANK"])
def test_a_variable_that_is_no_number_does_not_keep_igb_from_being_imported(variables, name):
    variables(**{name: "x"})
    assert igb.__getattr__("experiment")  # as when it is first used
    assert name not in os.environ


def test_versions_are_those_of_igb(command):
    for program in ("igb", "igb-report"):
        status, output = command("--version", program=program)
        assert status == 0
        assert output.startswith("igb 0.")


@pytest.mark.parametrize("arguments", [["loss=[ce,pz]"], ["--multirun", "loss=[ce,pz]", "seed=0,1"]])
def test_a_mixture_of_options_is_refused(command, arguments, tmp_path):
    status, output = command(*arguments, *TINY)
    assert status == 1
    expected = (
        "igb: loss=[ce,pz] would merge these options into one config; to sweep over them: --multirun loss=ce,pz\n"
    )
    assert output == expected
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_a_job_is_named_by_what_is_swept(command):
    options = ["hydra/launcher=local", "probe.images=10", "name=mine", "seed=0,1"]
    status, output = command("--multirun", *TINY, *options, "model._target_=tests.helpers.networks.Killed")
    assert status == 1
    for seed in (0, 1):
        assert f"igb: started seed={seed}\n" in output
        assert f"igb: ended seed={seed}\n" in output
        assert f"igb: failed: seed={seed}: killed by SIGKILL; see multirun/mine/" in output
    label = label_of(["loss=bl", "optimizer.lr=0.1", "+model.x=2", "seed=1"], {"loss", "seed", "model.x"})
    assert label == "loss=bl, +model.x=2, seed=1"
