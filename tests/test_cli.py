import json
import re
import shlex
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
import torch

import igb
from igb import experiment
from igb._checks import InputError
from igb._files import make_folder
from igb.folder import lock
from igb.sweeps.sweeper import run_name, run_names
from tests.conftest import TINY

ROOT = Path(igb.__file__).parents[1]
SHORT = [*TINY, "trainer.max_steps=2", "probe=log"]


def in_new_process(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, **options)


def statuses(folder):
    return {file.parent.name: json.loads(file.read_text())["status"] for file in folder.rglob("run.json")}


def test_help_names_every_group_with_its_options(command):
    status, output = command("--help")
    assert status == 0
    for folder in sorted((ROOT / "conf").rglob("*")):
        if folder.is_dir() and (files := sorted(file.stem for file in folder.glob("*.yaml"))):
            # Hydra names its own groups, such as hydra/launcher, in `igb --help hydra` alone.
            assert folder.parent.name == "hydra" or f"{folder.name}: {', '.join(files)}\n" in output


@pytest.mark.parametrize(
    "arguments", [["-m", "igb", "--help"], ["-c", "import igb, igb.cli; igb.cli.report()", "--help"]]
)
def test_help_is_quick_because_it_imports_no_torch(arguments):
    started = time.monotonic()
    result = in_new_process(sys.executable, "-X", "importtime", *arguments)
    assert result.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "pytorch_lightning", "torchvision", "pandas", "matplotlib"}
    assert time.monotonic() - started < 20  # a bound for a hang; the speed comes from what is not imported


def test_importing_igb_imports_no_torch():
    code = "import igb, sys; print(sorted(sys.modules)); print(dir(igb))"
    output = in_new_process(sys.executable, "-c", code).stdout
    assert "'torch'" not in output
    assert "'pandas'" not in output
    assert "'load_network', 'load_runs', 'losses', 'measure'" in output


@pytest.mark.parametrize(
    "code",
    [
        "igb.load_runs", "import igb.folder.identity, igb.folder.provenance, igb.folder.state", "import igb.schedule",
        "import igb.sweeps.local, igb.sweeps.slurm, igb.sweeps.sweeper", "import igb.training.stopping",
        "igb.__version__",
    ],
)  # fmt: skip
def test_what_needs_no_torch_imports_none(code):
    code = f"import igb, sys; {code}; print('torch' in sys.modules)"
    assert in_new_process(sys.executable, "-c", code).stdout == "False\n"


def test_statistics_import_no_report():
    assert "igb.report" not in (ROOT / "igb" / "statistics.py").read_text()
    assert "igb.report" not in (ROOT / "igb" / "_plots.py").read_text()


def test_one_run_lands_in_outputs(command):
    status, output = command(*SHORT, "loss=pz")
    assert status == 0
    (folder,) = Path("outputs").glob("*/*")
    assert (folder / "igb.log").read_text().count("plan: 3 probes of 360 images, 2 steps") == 1
    assert "plan: 3 probes of 360 images, 2 steps\n" in output
    assert f"completed: {folder.resolve()}" in output
    assert (folder / ".hydra" / "overrides.yaml").exists()


@pytest.mark.slow
def test_nothing_of_a_dependency_reaches_the_screen(tmp_path):
    result = in_new_process(sys.executable, "-m", "igb", *SHORT, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert result.stderr == f"igb {igb.__version__}: loading torch\n"
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["plan", "epoch 1 of 1", "completed"]


def test_a_sweep_gives_each_job_a_folder(command):
    status, output = command("--multirun", *SHORT, "loss=ce,bl,pz", "name=mine")
    assert status == 0
    assert set(statuses(Path("multirun/mine")).values()) == {"completed"}
    names = sorted(folder.name for folder in Path("multirun/mine").iterdir() if folder.is_dir())
    assert names == sorted(run_name([*SHORT, f"loss={loss}", "name=mine"]) for loss in ("ce", "bl", "pz"))
    assert "igb-report multirun/mine" in output
    assert all(f"completed: loss={loss}\n" in output for loss in ("ce", "bl", "pz"))


def test_a_sweep_or_run_without_a_name_gets_a_folder_of_its_own(command, monkeypatch):
    """Also within one second: Hydra's clock is held still."""

    class Still(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr("hydra.core.utils.datetime", Still)
    for _ in range(2):
        assert command("--multirun", *SHORT, "seed=0")[0] == 0
        assert command(*SHORT)[0] == 0
    for root in ("multirun", "outputs"):
        folders = sorted(folder.name for folder in Path(root, "2026-01-01").iterdir())
        assert folders == ["12-00-00", "12-00-00_2"]
        assert len(list(Path(root).rglob("matrices.zarr"))) == 2


def test_a_named_sweep_grows_in_its_folders(command):
    assert command("--multirun", *SHORT, "seed=0,1", "name=mine")[0] == 0
    longer = [item for item in SHORT if not item.startswith("trainer.max_steps")]
    assert command("--multirun", *longer, "trainer.max_steps=4", "seed=0,1", "name=mine")[0] == 0
    files = sorted(Path("multirun/mine").glob("*/train.csv"))
    assert [file.read_text().splitlines()[-1].partition(",")[0] for file in files] == ["4", "4"]
    assert command("--multirun", *longer, "trainer.max_steps=5,6", "name=mine")[0] == 0  # by which they differ
    assert len(list(Path("multirun/mine").glob("*/train.csv"))) == 4


@pytest.mark.slow
def test_a_longer_run_that_is_killed_is_not_taken_for_the_shorter(command):
    arguments = ["--multirun", *TINY, "seed=0,1", "name=mine", "probe=log"]
    assert command(*arguments, "trainer.max_steps=1")[0] == 0
    for file in Path("multirun/mine").glob("seed=1*/checkpoints/last.ckpt"):
        file.write_bytes(b"")  # it starts from scratch
    (damaged,) = Path("multirun/mine").glob("*seed=1*")
    (damaged / "metrics.csv").unlink()
    (damaged / "metrics.csv").mkdir()  # and cannot
    status, output = command(*arguments, "hydra/launcher=local", "trainer.max_steps=2")
    assert status == 1
    assert "igb: 1 completed, 0 diverged, 1 failed\n" in output


def test_a_named_sweep_takes_no_run_twice(command):
    status, output = command("--multirun", *SHORT, "seed=0,0", "name=mine")
    assert (status, Path("multirun").exists()) == (1, False)
    assert "igb: duplicate run: two jobs have the same overrides, " in output
    status, output = command("--multirun", *SHORT, "seed=0,1", "name=../mine")
    assert (status, output) == (1, "igb: name=../mine must be the name of a folder in multirun/\n")


def test_a_sweep_folder_that_cannot_be_written_is_one_line(command):
    Path("multirun").touch()
    status, output = command("--multirun", *SHORT, "seed=0,1")
    assert status == 1
    assert re.fullmatch(r"igb: the output folder multirun/\S+ cannot be written \(Not a directory\)\n", output)


def test_a_new_folder_that_cannot_be_written_is_refused_not_tried_for_ever(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"run cannot be written .No space left on device"):
        make_folder(tmp_path / "run", exclusively=True)
    assert [folder.name for folder in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_one_line(command, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("igb.training.matrices.replace", full)
    monkeypatch.setattr("traceback.print_exc", full)
    status, output = command(*SHORT)
    assert status == 1
    (folder,) = Path("outputs").glob("*/*")
    assert f"{folder} is full; make room, and the same command resumes the run\n" in output
    assert "Traceback" not in output


def test_hydras_own_way_to_name_jobs_works(command):
    status, output = command("--multirun", *SHORT, "seed=0,1", "name=mine", "hydra.sweep.subdir=${hydra.job.num}")
    assert status == 0, output
    assert sorted(statuses(Path("multirun/mine"))) == ["0", "1"]


def test_jobs_are_checked_before_the_first_starts(command):
    status, output = command("--multirun", *SHORT, "loss=bl", "loss.gamma=0.7,1,-2", "name=mine")
    assert status == 1
    assert output.splitlines()[-1] == "igb: loss.gamma=-2 must be a finite number of at least 0"
    assert not Path("multirun").exists()


def test_a_failed_job_does_not_stop_the_others(command):
    target = "model._target_=tests.helpers.networks.Tiny,tests.helpers.networks.Failing"
    status, output = command("--multirun", *SHORT, target, "seed=0,1", "name=mine")
    assert status == 1
    assert sorted(statuses(Path("multirun/mine")).values()) == ["completed", "completed", "failed", "failed"]
    failed = [line for line in output.splitlines() if line.startswith("igb: failed:")]
    assert len(failed) == 2
    for line, seed in zip(failed, (0, 1), strict=True):
        assert "model._target_=tests.helpers.networks.Failing" in line
        assert f"seed={seed}" in line
        assert ": out of order; see " in line
        log = Path(line.rpartition("see ")[2])
        assert "Traceback" in log.read_text()
        assert f"igb: RuntimeError: out of order; the traceback is in {log.resolve()}\n" in output
    assert "Traceback" not in output


def test_a_diverged_job_is_a_result(command):
    target = "model._target_=tests.helpers.networks.Explosive,tests.helpers.networks.Tiny"
    status, _ = command("--multirun", *TINY, "trainer.max_steps=6", target, "name=mine")
    assert status == 0
    assert sorted(statuses(Path("multirun/mine")).values()) == ["completed", "diverged"]


def test_a_folder_of_another_run_keeps_what_it_holds(command):
    command(*SHORT, "hydra.run.dir=run")
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    status, output = command(*SHORT, "hydra.run.dir=run", "seed=1")
    assert status == 1
    assert output == (
        "igb: seed=1 differs from seed=0, with which the run in run was started; "
        "use the original value or another folder\n"
    )
    assert before == {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}


def test_a_finished_run_is_left_as_it_is(command):
    command(*SHORT, "hydra.run.dir=run")
    before = Path("run/run.json").read_bytes(), Path("run/metrics.csv").stat().st_mtime_ns
    status, output = command(*SHORT, "hydra.run.dir=run")
    assert (status, output) == (0, f"already completed: {Path('run').resolve()}\n")
    assert before == (Path("run/run.json").read_bytes(), Path("run/metrics.csv").stat().st_mtime_ns)


def test_a_sweep_goes_on_where_it_stopped(command):
    """A failed and a missing run are started, finished ones left alone; a diverged one is repeated only if asked."""
    Path("fuse").touch()
    targets = "model._target_=tests.helpers.networks.Tiny,tests.helpers.networks.Fused,tests.helpers.networks.Explosive"
    arguments = ["--multirun", *TINY, "trainer.max_steps=6", targets, "name=mine"]
    status, output = command(*arguments)
    assert status == 1
    assert "igb: 1 completed, 1 diverged, 1 failed\n" in output
    assert f"igb: to resume this sweep after an interruption: igb {shlex.join(arguments)}\n" in output
    first = {run: file.read_bytes() for run in ("Tiny", "Explosive") for file in run_json(run)}
    Path("fuse").unlink()
    status, output = command(*arguments)
    assert status == 0
    assert "igb: 2 of 3 runs are already finished\n" in output
    assert "igb: 2 completed, 1 diverged, 0 failed\n" in output
    assert first == {run: file.read_bytes() for run in ("Tiny", "Explosive") for file in run_json(run)}
    command(*arguments, "hydra.sweeper.repeat_diverged=true")
    assert first["Explosive"] != run_json("Explosive")[0].read_bytes()
    assert first["Tiny"] == run_json("Tiny")[0].read_bytes()


def run_json(name):
    return list(Path("multirun/mine").glob(f"*{name}*/run.json"))


def test_a_sweep_without_a_name_says_how_to_go_on_with_it(command):
    _, output = command("--multirun", *SHORT, "seed=0,1")
    line = next(line for line in output.splitlines() if line.startswith("igb: to resume"))
    status, output = command(*shlex.split(line.partition(": igb ")[2]))
    assert status == 0
    assert "igb: 2 of 2 runs are already finished\n" in output


def test_a_folder_whose_name_is_no_utf8_is_refused(command, monkeypatch):
    Path("\udcff").mkdir()
    monkeypatch.chdir("\udcff")
    status, output = command(*SHORT)
    assert status == 1
    assert "must have a name in UTF-8" in output
    assert not list(Path().iterdir())


def test_two_sweeps_do_not_share_a_folder(command):
    Path("multirun/mine").mkdir(parents=True)
    taken = lock.Lock(Path("multirun/mine"))
    taken.acquire()
    status, output = command("--multirun", *SHORT, "seed=0,1", "name=mine")
    taken.release()
    assert status == 1
    assert "igb: another process is writing to multirun/mine\n" in output
    assert not statuses(Path("multirun/mine"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss=hinge"], "Could not find 'loss/hinge'"),
        (["los=ce"], "Key 'los' is not in struct"),
        (["loss=bl", "loss.gama=1"], "Key 'gama' is not in struct"),
        (["loss=bl", "loss.gamma=-1"], "igb: loss.gamma=-1 must be a finite number of at least 0\n"),
        (["loss=bl", "loss.gamma=nan"], "igb: loss.gamma=nan must be a finite number of at least 0\n"),
        (["loss=pz", "loss.cutoff=1.5"], "igb: loss.cutoff=1.5 must be a finite number from 0 to 1\n"),
        (["loss.warmup_epochs=-1"], "igb: loss.warmup_epochs=-1 must be a whole number of at least 0\n"),
        (["data.batch_size=0"], "igb: data.batch_size=0 must be a whole number of at least 1\n"),
        (["data.batch_size=1"], "igb: data.batch_size=1 must be at least 2 for a network with batch norm\n"),
        (["trainer.max_epochs=-1"], "igb: trainer.max_epochs=-1 must be a whole number of at least 0\n"),
        (["trainer.keep_checkpoint=1"], "igb: trainer.keep_checkpoint=1 must be true or false\n"),
        (["trainer.accelerator=abacus"], "igb: trainer.accelerator=abacus cannot be used: "),
        pytest.param(
            ["trainer.accelerator=gpu"],
            "igb: trainer.accelerator=gpu cannot be used: ",
            marks=pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a CUDA card"),
        ),
        (["optimizer.lr=-0.1"], "igb: optimizer.lr=-0.1 must be a finite number of at least 0\n"),
        (["optimizer.lr=fast"], "igb: optimizer.lr=fast must be a finite number of at least 0\n"),
        (["data_seed=-1"], "igb: data_seed=-1 must be a whole number from 0 to 4294967295\n"),
        (["init_seed='${sed}'"], "igb: InterpolationKeyError: Interpolation key 'sed' not found"),
        (
            ["~loss._target_"],
            "igb: loss._target_ is missing; it names the class or function to instantiate (see conf/loss/)\n",
        ),
        (["init_seed=-1"], "igb: init_seed=-1 must be a whole number from 0 to 4294967295\n"),
        (["probe.chunk=1", "probe.batch_norm=both"], "igb: probe.chunk=1 must be a whole number of at least 2\n"),
        (
            ["data=image_folder"],
            "igb: data.root is required: a folder with train/<class>/* and test/<class>/*\n",
        ),
        (["data=image_folder", "data.root=nowhere"], "/nowhere must be a folder with train/<class>/*"),
        (["hydra.run.dir=file/run"], "igb: the output folder file/run cannot be written (Not a directory)\n"),
        (["loss._target_=no.such.Loss"], "igb: loss: ImportError: Error loading 'no.such.Loss'"),
    ],
)
def test_bad_input_is_one_line_and_no_run(command, arguments, message):
    Path("file").touch()
    status, output = command(*SHORT, *arguments)
    assert status == 1
    assert message in output
    assert "Traceback" not in output
    if message.startswith("igb: "):
        assert output.count("\n") == 1
    assert not Path("outputs").exists()


def test_a_batch_of_no_jobs_is_refused(command):
    status, output = command("--multirun", *SHORT, "seed=0,1", "hydra.sweeper.max_batch_size=-1")
    assert (status, output) == (1, "igb: hydra.sweeper.max_batch_size=-1 must be a whole number of at least 1\n")
    assert not Path("multirun").exists()


def test_what_only_the_data_tell_is_one_line_too(command, image_folder):
    file = image_folder / "test" / "ant" / "0.png"
    file.write_bytes(b"no image")
    data = ["data=image_folder", f"data.root={image_folder}"]
    status, output = command(*SHORT, *data)
    assert status == 1
    assert f"igb: data.root: {file} cannot be read as an image" in output
    assert "Traceback" not in output
    status, output = command(*SHORT, "probe.images=5000")
    assert status == 1
    assert "igb: probe.images=5000 must be between 10 (one per class) and 360 (all test images)\n" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("text", ["", "- seed=1\n- 'tra", "-"])
def test_a_run_whose_overrides_were_not_written_to_the_end_has_the_name_of_its_own(tmp_path, text):
    file = tmp_path / "seed=1,trainer.max_steps=1" / ".hydra" / "overrides.yaml"
    file.parent.mkdir(parents=True)
    job = [["seed=1", "trainer.max_steps=2"]]
    file.write_text("- seed=1\n- trainer.max_steps=1\n")
    assert run_names(job, tmp_path, lambda *_: True) == ["seed=1,trainer.max_steps=1"]
    file.write_text(text)
    assert run_names(job, tmp_path, lambda *_: True) == ["seed=1,trainer.max_steps=2"]


def test_names_are_safe_short_and_the_same_for_the_same_overrides():
    assert run_name(["loss=ce", "experiment=quickstart", "name=x"]) == "experiment=quickstart,loss=ce"
    assert run_name(["seed=1", "loss=ce"]) == run_name(["loss=ce", "seed=1"])
    assert run_name([]) == run_name(["name=x"]) == "defaults"
    roots = {run_name([f"data.root={root}"]) for root in ("/a/b", "/a-b", "/a b", "-a-b")}
    assert len(roots) == 4
    long = [run_name([*(f"key{n}=value" for n in range(40)), f"last={n}"]) for n in range(2)]
    assert long[0] != long[1]
    for name in (*roots, *long, run_name(["x=ä/../;$(rm)\n"])):
        assert len(name.encode()) <= 150
        assert not set(name) & set("/ \n;$()'\"")


def test_the_config_folder_of_a_user_is_importable(command):
    folder = Path("my")
    (folder / "loss").mkdir(parents=True)
    (folder / "my_test_losses.py").write_text(
        "from igb.losses import TrueClassLoss\n"
        "class Squared(TrueClassLoss):\n"
        "    def of_log_probability(self, log_p):\n"
        "        return log_p**2\n"
    )
    (folder / "loss" / "squared.yaml").write_text("_target_: my_test_losses.Squared\n")
    status, output = command("--config-dir", "my", "--multirun", *SHORT, "loss=ce,squared", "name=mine")
    assert status == 0, output
    (folder,) = Path("multirun/mine").glob("*loss=squared*")
    assert "Squared()" in (folder / "loss_curve.csv").read_text()
    assert statuses(Path("multirun/mine"))[folder.name] == "completed"


@pytest.mark.slow
def test_the_wheel_holds_the_config_and_the_plugin(tmp_path):
    build = in_new_process(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    conf = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "conf").rglob("*.yaml"))
    assert sorted(name.removeprefix("igb/") for name in names if name.startswith("igb/conf/")) == conf
    assert "hydra_plugins/igb_sweeper.py" in names
    in_new_process(sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site")
    run = in_new_process(
        sys.executable, "-c", "import igb, sys; print(igb.__file__); from igb.cli import main; main()",
        "data=digits", "model=resnet18", "trainer.max_epochs=0", "probe.images=10", f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert run.stdout.startswith(str(tmp_path / "site")), run.stderr
    assert run.returncode == 0, run.stderr
    assert statuses(tmp_path) == {"run": "completed"}


def test_an_option_of_the_users_with_a_name_of_igbs_is_refused(command, tmp_path):
    (tmp_path / "my" / "model").mkdir(parents=True)
    file = tmp_path / "my" / "model" / "mlp.yaml"
    file.write_text("_target_: tests.helpers.networks.Tiny\n")
    status, output = command("--config-dir", "my", *SHORT, "model=mlp")
    message = f"{file} has the name of an option of igb's own, which would be taken instead; rename it"
    assert (status, output) == (1, f"igb: {message}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        experiment.compose("model=mlp", config_dir="my")
