import platform
import subprocess

import igb
from igb import experiment
from igb.folder import state
from igb.folder.provenance import commit, cpu_model, provenance
from tests.conftest import tiny_config


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_that_of_a_folder_that_git_tracks(tmp_path):
    assert commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "own.yaml").write_text("a: 1\n")
    assert commit(tmp_path / "conf") is None  # as an environment in a repository, which is not tracked
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "x")
    (tmp_path / "elsewhere").touch()
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path / "conf") == {"commit": head, "clean": True}
    (tmp_path / "conf" / "own.yaml").write_text("a: 2\n")
    assert commit(tmp_path / "conf") == {"commit": head, "clean": False}


def test_where_there_is_no_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None
    assert provenance([tmp_path])["code"] == {}


def test_run_json_says_where_its_numbers_come_from(tmp_path):
    experiment.run(tiny_config("trainer.max_steps=1", "probe.images=10"), tmp_path / "run")
    entries = state.read(tmp_path / "run")
    assert entries["host"] == platform.node()
    assert entries["versions"]["igb"] == igb.__version__
    assert entries["hardware"]["cpu_model"] == cpu_model() != ""
    assert {"machine", "cpu", "cores"} <= entries["hardware"].keys()
    assert len(entries["images"]) == 64
    assert set(entries["code"]) <= {"igb"}


def test_the_commit_of_a_users_config_folder_is_recorded(command, tmp_path):
    own = tmp_path / "own"
    (own / "loss").mkdir(parents=True)
    (own / "loss" / "mine.yaml").write_text("defaults: [ce]\n")
    git(own, "init", "--quiet")
    git(own, "add", ".")
    git(own, "commit", "--quiet", "-m", "x")
    arguments = ["loss=mine", "data=digits", "model._target_=tests.helpers.networks.Tiny", "trainer.max_epochs=0"]
    status, output = command("--config-dir", str(own), *arguments, "hydra.run.dir=run")
    assert status == 0, output
    assert state.read(tmp_path / "run")["code"][str(own)] == {"commit": git(own, "rev-parse", "HEAD"), "clean": True}
