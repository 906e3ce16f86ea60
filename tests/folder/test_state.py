import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from igb import _slurm
from igb._checks import InputError
from igb._files import make_folder
from igb.folder import identity, lock, state
from tests.conftest import TINY, tiny_config, tiny_run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("done") / "run", "trainer.max_epochs=1", "trainer.max_steps=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "seed=3 differs from seed=0"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1 differs from optimizer.lr=0.001"),
        ("loss=pz", "loss._target_=igb.losses.PiecewiseZeroLoss differs from loss._target_=igb.losses.CrossEntropy"),
        ("+loss.extra=1", "loss.extra=1 differs from loss.extra=None"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 differs from trainer.max_epochs=1"),
        ("trainer.max_steps=2", "trainer.max_steps=2 differs from trainer.max_steps=3"),
    ],
)
def test_a_run_of_another_config_is_refused_with_the_key_named(done, override, message):
    config = tiny_config("trainer.max_epochs=1", "trainer.max_steps=3", override)
    with pytest.raises(InputError) as error:
        identity.refuse_other(done, config)
    assert str(error.value).startswith(f"{message}, with which the run in {done} was started; ")


@pytest.mark.parametrize(
    ("override", "finished"),
    [
        ("data.cache_dir=elsewhere", "completed"),
        ("trainer.max_epochs=2", "completed"),  # still three steps
        ("trainer.max_steps=4", None),
        ("trainer.max_steps=null", None),
    ],
)
def test_some_keys_may_differ_and_limits_may_grow(done, override, finished):
    config = tiny_config("trainer.max_epochs=1", "trainer.max_steps=3", override)
    identity.refuse_other(done, config)
    assert state.final_status(done, config) == finished


def test_only_what_is_final_is_finished(tmp_path):
    assert state.final_status(tmp_path, tiny_config()) is None
    entries = {"steps_per_epoch": 45, "total_steps": 900}
    for status, expected in {
        "running": None, "interrupted": None, "failed": None, "diverged": "diverged", "completed": "completed",
    }.items():  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps({"status": status, **entries}))
        assert state.final_status(tmp_path, tiny_config()) == expected


def test_a_damaged_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"status": ')
    with pytest.raises(
        InputError, match=r"run.json is damaged or .*; remove .* if it is a run of igb, or choose anoth"
    ):
        identity.refuse_other(tmp_path, tiny_config())


@pytest.mark.parametrize("entry", [{"threads": "x"}, {"resumed": 3}, {"checkpoint_seconds": "1"}, {"images": None}])
def test_a_damaged_entry_is_named_before_the_run_is_touched(entry, tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=1", "probe.images=10")
    entries = state.read(folder) | entry
    (folder / "run.json").write_text(json.dumps(entries))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (name,) = entry
    with pytest.raises(InputError, match=rf"run\.json is damaged: {name}="):
        tiny_run(folder, "trainer.max_steps=2", "probe.images=10")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_file_of_any_name_is_left_alone(tmp_path):
    (tmp_path / ".writable").write_text("mine")
    make_folder(tmp_path, exclusively=False)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(".writable", "mine")]


def test_a_run_without_its_config_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "running"}')
    with pytest.raises(InputError, match=r"run\.json has no config; choose another folder"):
        identity.refuse_other(tmp_path, OmegaConf.create())


def test_a_running_run_is_one_whose_job_of_slurm_is_alive(tmp_path, monkeypatch):
    """Where its lock is not seen."""
    monkeypatch.setattr(_slurm, "queue", lambda: [_slurm.Job("12_3|RUNNING|None|"), _slurm.Job("14|PENDING|Priority|")])
    for job, expected in {"12_3": "running", "14": "running", "12_4": "interrupted", None: "interrupted"}.items():
        assert state.current_status(tmp_path, {"status": "running", "slurm_job": job}, _slurm.queued) == expected
    assert state.current_status(tmp_path, {"status": "failed", "slurm_job": "14"}, _slurm.queued) == "failed"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))  # where no SLURM is
    assert state.current_status(tmp_path, {"status": "running", "slurm_job": "12_3"}, _slurm.queued) == "interrupted"


def test_the_runs_of_a_sweep_are_those_of_all_its_commands(tmp_path):
    assert state.planned(tmp_path) == []
    state.plan(tmp_path, ["seed=0", "seed=1"])
    state.plan(tmp_path, ["seed=2", "seed=1"])
    assert state.planned(tmp_path) == ["seed=0", "seed=1", "seed=2"]
    (tmp_path / "sweep.json").write_text("[")
    with pytest.raises(InputError, match=r"sweep.json is damaged .*; remove it"):
        state.planned(tmp_path)


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    code = "import sys, pathlib; from igb.folder.lock import Lock; lock = Lock(pathlib.Path(sys.argv[1]))"
    code += "; lock.acquire(); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE) as process:
        while not lock.in_use(tmp_path):
            assert process.poll() is None
            time.sleep(0.2)
        with pytest.raises(InputError, match="another process is writing to"):
            lock.Lock(tmp_path).acquire()
        process.kill()
    assert not lock.in_use(tmp_path)
    taken = lock.Lock(tmp_path)
    taken.acquire()
    taken.release()


@pytest.mark.parametrize("error", [NotImplementedError("no locks here"), OSError(37, "No locks available")])
def test_where_nothing_can_be_locked_a_run_is_warned_not_stopped(tmp_path, monkeypatch, caplog, error):
    def acquire(*args, **kwargs):
        raise error

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(lock.filelock.FileLock, "acquire", acquire)
    taken = lock.Lock(tmp_path)
    taken.acquire()
    assert taken.held
    assert f"{tmp_path} cannot be locked ({error}); make sure that no two processes write there" in caplog.text
    taken.release()
    assert not lock.in_use(tmp_path)


OTHERS = ["metrics.csv", "train.csv", "matrices.npz", "matrices.zarr", "checkpoints/x.ckpt", "events.out.tfevents.1.a"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_files_of_another_program_is_refused_and_keeps_them(tmp_path, command, name):
    """Such as Lightning's `version_0`."""
    file = tmp_path / "version_0" / name
    file.parent.mkdir(parents=True)
    file.write_text("epoch,loss\n0,1.5\n")
    (tmp_path / "version_0" / "notes.txt").touch()
    status, output = command(*TINY, "trainer.max_steps=1", "hydra.run.dir=version_0")
    assert (status, output) == (1, f"igb: version_0 holds {name} but no igb run.json; choose another folder\n")
    assert sorted(
        str(path.relative_to(tmp_path / "version_0")) for path in (tmp_path / "version_0").rglob("*")
    ) == sorted({"notes.txt", name, str(Path(name).parent)} - {"."})
    assert file.read_text() == "epoch,loss\n0,1.5\n"


def test_the_folder_of_another_hydra_program_is_refused(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text("hydra:\n  help:\n    app_name: train\n")
    with pytest.raises(InputError, match=r"holds \.hydra/hydra\.yaml but no igb run\.json"):
        identity.refuse_other(tmp_path, tiny_config())


@pytest.mark.parametrize("text", ["[1]", '{"status": "fine"}', '{"loss": 0.1}', '{"status": 3}'])
def test_a_run_json_of_another_program_is_one_line(tmp_path, command, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(text)
    status, output = command(*TINY, "hydra.run.dir=run")
    expected = "igb: run/run.json has no status of an igb run; it is damaged or was written by another program\n"
    assert (status, output) == (1, expected)


def test_a_run_json_that_is_lost_is_one_line(tmp_path, command):
    arguments = [*TINY, "probe.images=10", "hydra.run.dir=run"]
    assert command(*arguments, "trainer.max_steps=1")[0] == 0
    (tmp_path / "run" / "run.json").unlink()
    status, output = command(*arguments, "trainer.max_steps=2")
    assert (status, output) == (1, "igb: run holds metrics.csv but no igb run.json; choose another folder\n")


def test_what_a_run_was_started_with_is_kept_when_it_resumes(tmp_path, monkeypatch):
    few = ("probe.images=10", "probe=log")
    folder = tiny_run(tmp_path / "run", *few, "trainer.max_steps=1")
    tiny_run(folder, *few, "trainer.max_steps=2")
    assert "earlier" not in state.read(folder)
    before = state.read(folder)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    tiny_run(folder, *few, "trainer.max_steps=3")
    entries = state.read(folder)
    assert entries["host"] == "elsewhere"
    assert entries["earlier"] == [{"until_step": 2, "host": before["host"]}]
    tiny_run(folder, *few, "trainer.max_steps=4")
    assert len(state.read(folder)["earlier"]) == 1


def test_a_run_that_starts_anew_drops_where_the_one_before_resumed(tmp_path):
    options = ("probe.images=10", "trainer.checkpoint_minutes=0")
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=1", *options)
    tiny_run(folder, "trainer.max_steps=2", *options)
    assert state.read(folder)["resumed"] == [1]
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    tiny_run(folder, "trainer.max_steps=3", *options)
    assert "resumed" not in state.read(folder)
