import importlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.utils import get_object
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

import igb
from igb import experiment
from igb._checks import InputError
from igb._paths import config_folder
from igb.folder import identity, state
from igb.folder.identity import OLD_CONFIG_DEFAULTS, ROLES, current_target, flat, keys_with_role, role
from igb.report.runs import find_runs, read_metrics
from igb.report.settings import settings, swept
from tests.conftest import TINY, tiny_config, tiny_run
from tests.helpers.runs import made_run

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5).filter(
    lambda text: "${" not in text and "???" not in text
)  # fmt: skip
keys = st.text("abcdef", min_size=1, max_size=3)
configs = st.dictionaries(keys, values | st.dictionaries(keys, values, min_size=1, max_size=4), min_size=1, max_size=6)


@given(configs)
def test_an_identity_is_the_same_from_the_config_and_from_run_json(config):
    """And of a value, true or not, no key is lost on the way, nor does a seed or a limit count."""
    written = json.loads(json.dumps(config))
    assert identity.identity(OmegaConf.create(config)) == identity.identity(written)
    longer = {**config, "seed": 3, "name": "other", "trainer": {"max_epochs": 9}}
    known = {key: value for key, value in config.items() if key not in ("seed", "name", "trainer")}
    assert identity.identity(longer) == identity.identity(known)
    assert flat(known) == flat(json.loads(json.dumps(known)))


SCHEMAS = (1, 2)  # of each a sweep's folder, as the last version before the next schema left it
# The keys and options that there were then.
KEYS_OF_SCHEMA_1 = {
    "seed", "init_seed", "data_seed", "name", "data._target_", "data.root", "data.cache_dir", "data.image_size",
    "data.batch_size", "data.scaling", "data.seed", "model._target_", "init._target_", "init._partial_",
    "loss._target_", "loss.gamma", "loss.detach_weight", "loss.cutoff", "loss.warmup_epochs", "optimizer._target_",
    "optimizer.lr", "optimizer.momentum", "optimizer.weight_decay", "probe._target_", "probe.points", "probe.images",
    "probe.batch_norm", "probe.chunk", "compute._target_", "compute.precision", "compute.threads", "trainer._target_",
    "trainer.max_epochs", "trainer.max_steps", "trainer.accelerator", "trainer.devices", "trainer.strategy",
    "trainer.checkpoint_minutes", "trainer.keep_checkpoint",
}  # fmt: skip
OPTIONS_OF_SCHEMA_1 = {
    "data": ("cifar10", "digits", "image_folder"), "model": ("resnet18", "resnet50"),
    "init": ("he", "torchvision", "replaced_conv1", "torch_default"), "loss": ("ce", "bl", "bl_detached", "pz"),
    "optimizer": ("sgd",), "probe": ("every_batch", "log"), "compute": ("exact", "fast"), "trainer": ("default",),
    "schedule": ("constant",),  # of which there was no group
}  # fmt: skip


@pytest.fixture(params=SCHEMAS, ids=lambda schema: f"schema {schema}")
def old(request, tmp_path):
    """A sweep of an older schema with one run, of five steps, and an event file that it left."""
    sweep = Path(shutil.copytree(Path(__file__).parent / f"schema_{request.param}", tmp_path / "old"))
    (folder,) = (file.parent for file in sweep.glob("*/run.json"))
    name = "events.out.tfevents.1795736095.vm.2404.0" + ("" if request.param == 1 else ".igb")
    (folder / name).write_bytes(b"\x00layout ^dominance/running$")
    return folder


def overrides(folder):
    return [line.removeprefix("- ") for line in (folder / ".hydra" / "overrides.yaml").read_text().splitlines()]


def test_a_run_of_an_older_schema_resumes_to_the_end_of_an_undisturbed_one(old, tmp_path):
    longer = [*overrides(old), "trainer.max_steps=10"]
    before, schema = (old / "metrics.csv").read_text(), (state.read(old)).get("schema", 1)
    matrices = igb.load_matrices(old)
    assert matrices.probability.dtype == np.float64
    (tmp_path / "elsewhere").mkdir()
    foreign = old / "events.out.tfevents.1700000000.host.123.0"
    foreign.touch()
    assert experiment.run(experiment.compose(*longer), old) == "completed"
    experiment.run(experiment.compose(*longer), tmp_path / "new")
    kept = before[: before.index("\n5,")]  # the probe of the last step of the shorter run is not one of the longer
    assert (old / "metrics.csv").read_text().startswith(kept)  # with the columns that it has
    expected, found = (read_metrics(folder / "metrics.csv", 10) for folder in (tmp_path / "new", old))
    assert found["tied_fraction"].isna().all() == (schema == 1)
    assert set(found["split"]) == {"test"}
    assert found["step"].max() == 10
    assert found["weight"].isna().all()
    newer = ["tied_fraction", "weight", "drift_ratio"]
    pd.testing.assert_frame_equal(found.drop(columns=newer), expected.drop(columns=newer), rtol=1e-3)
    losses = [pd.read_csv(folder / "train.csv")["loss"] for folder in (old, tmp_path / "new")]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    entries = state.read(old)
    assert (entries["resumed"], entries["total_steps"], entries["schema"]) == ([5], 10, schema)
    assert not (old / "matrices.npz").exists()
    resumed, new = igb.load_matrices(old), igb.load_matrices(tmp_path / "new")
    assert resumed.step.tolist() == new.step.tolist() == found["step"].to_numpy()[::10].tolist()
    assert resumed.batch_norm.tolist() == new.batch_norm.tolist() == ["running", "batch"] * (len(found) // 20)
    np.testing.assert_array_equal(resumed.probability[:10], matrices.probability[:10].astype(np.float32))
    np.testing.assert_allclose(resumed.probability[:], new.probability[:], rtol=1e-3)
    assert len(list(old.glob("events.out.tfevents.*.igb"))) == 1
    assert [file.name for file in old.glob("events.out.tfevents.*") if file.suffix != ".igb"] == [foreign.name]


def test_a_sweep_of_an_older_schema_grows_in_its_folders_and_pools_with_new_seeds(old, command):
    status, output = command(
        "--multirun", *overrides(old), "seed=0,1", f"hydra.sweep.dir={old.parent}", "trainer.max_steps=6"
    )
    assert status == 0, output
    assert len(list(old.parent.glob("*/run.json"))) == 2
    runs, left_out = find_runs([old.parent])
    assert not left_out
    (setting,) = settings(runs)
    assert sorted(run.value("seed") for run in setting.runs) == [0, 1]
    assert swept(runs) == []
    assert len(igb.load_runs(old.parent)) == sum(len(run.metrics) for run in runs)


def test_the_network_of_a_run_of_an_older_schema_is_loaded(old):
    network = igb.load_network(old, trust=True)
    data = experiment.build(experiment.compose(*overrides(old))).data
    data.setup()
    stats = igb.measure(network, data.scale(data.test_images), data.test_labels)
    assert 0.1 < stats.dominance < 1


def values_of(options):
    """The keys of some options of groups, with their values."""
    found = {}
    for names in itertools.zip_longest(*options.values()):
        chosen = [f"{group}={name}" for group, name in zip(options, names, strict=True) if name]
        needed = ["data.root=x"] if "data=image_folder" in chosen else []
        config = flat(experiment.compose(*chosen, *needed))
        groups = {one.partition("=")[0] for one in chosen}
        found |= {key: value for key, value in config.items() if "." not in key or key.partition(".")[0] in groups}
    return found


def test_every_new_key_of_an_old_option_has_a_meaning_for_older_runs():
    """It is null, may differ, or stands in OLD_CONFIG_DEFAULTS with what the versions before it did."""
    found = values_of(OPTIONS_OF_SCHEMA_1)
    new = {key: value for key, value in found.items() if key not in KEYS_OF_SCHEMA_1}
    meant = {key: value for key, value in new.items() if value is not None and role(key) != identity.MAY_DIFFER}
    assert meant == OLD_CONFIG_DEFAULTS


def test_every_key_with_a_role_is_one():
    groups = {file.parent.name for file in config_folder().glob("*/*.yaml")} - {"experiment", "hydra"}
    options = {group: [file.stem for file in (config_folder() / group).glob("*.yaml")] for group in groups}
    found = set(values_of(options))
    assert set(ROLES) <= found | {key.partition(".")[0] for key in found}


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("igb.sources.Digits", "igb.data.sources.Digits"), ("igb.probe.Probe", "igb.training.Probe"),
        ("igb.networks.resnet50", "igb.models.resnet50"), ("my.sources.Digits", "my.sources.Digits"),
    ],
)  # fmt: skip
def test_former_names_are_those_of_today(former, current):
    assert current_target(former) == current
    if former.startswith("igb"):
        package, _, name = former.rpartition(".")
        assert getattr(importlib.import_module(package), name) is get_object(current)  # as a user's code may still say


@pytest.mark.parametrize("of", [identity.SEED, identity.MAY_DIFFER, identity.MAY_GROW])
def test_what_has_a_role_is_no_part_of_identity(of):
    keys = keys_with_role(of)
    assert keys
    changed = {"seed": 3, "init_seed": 4, "data_seed": 5, "name": "x", "data.root": "y", "data.cache_dir": "z"}
    changed |= {"noise_seed": 6, "data.memory": "host", "data.workers": 0, "objective": "accuracy", "logger": "csv"}
    changed |= {"trainer.checkpoint_minutes": 9, "trainer.keep_checkpoint": "false", "trainer.max_epochs": 99}
    changed |= {"trainer.max_steps": 98, "probe.matrices": "false"}
    plain = tiny_config("data=cifar10")
    other = tiny_config("data=cifar10", *(f"{key}={changed[key]}" for key in keys))
    assert identity.identity(plain) == identity.identity(other)
    assert identity.identity(plain) != identity.identity(tiny_config("data=cifar10", "optimizer.lr=0.1"))


def test_resuming_with_what_may_differ_goes_on(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=2", "probe.images=10")
    config = tiny_config("trainer.max_steps=3", "probe.images=10", "trainer.checkpoint_minutes=1", "name=x")
    assert experiment.run(config, folder) == "completed"
    assert state.read(folder)["resumed"] == [2]


def images(root, shade=0):
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(0, 200, (32, 32), dtype=np.uint8) + shade
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index}.png")
    return root


def test_a_run_resumes_on_the_same_images_alone_wherever_they_lie(tmp_path):
    options = ["data=image_folder", "data.batch_size=4", "trainer.max_epochs=100"]
    first, copied = images(tmp_path / "first"), images(tmp_path / "copied")
    folder = tiny_run(tmp_path / "run", *options, f"data.root={first}", "trainer.max_steps=2")
    tiny_run(folder, *options, f"data.root={copied}", "trainer.max_steps=3")
    shutil.rmtree(first)
    images(first, shade=1)
    before, entries = content(folder), state.read(folder)
    with pytest.raises(InputError, match=r"data: the images differ from those the run in .*run was started with"):
        tiny_run(folder, *options, f"data.root={first}", "trainer.max_steps=4")
    assert before == {
        file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "run.json"
    }
    found = state.read(folder)
    assert "the images differ from those" in found.pop("reason")
    assert found == entries
    (first / "train" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        tiny_run(folder, *options, f"data.root={first}", "trainer.max_steps=4")
    assert state.read(folder)["status"] == "completed"
    (tmp_path / "run" / ".lock").touch()
    assert tiny_run(folder, *options, f"data.root={copied}", "trainer.max_steps=4")
    assert "reason" not in state.read(folder)


def test_a_finished_run_is_that_of_its_own_images_alone(tmp_path):
    options = ["data=image_folder", "data.batch_size=4", "trainer.max_epochs=1", "probe=log"]
    first, copied = images(tmp_path / "first"), images(tmp_path / "copied")
    others = images(tmp_path / "others", shade=1)
    folder = tiny_run(tmp_path / "run", *options, f"data.root={first}")
    before, entries = content(folder), state.read(folder)
    tiny_run(folder, *options, f"data.root={copied}")
    with pytest.raises(InputError, match="data: the images differ from those the run in"):
        tiny_run(folder, *options, f"data.root={others}")
    assert (content(folder), state.read(folder)) == (before, entries)


def test_a_sweep_on_other_images_has_runs_of_its_own(tmp_path, command):
    options = ["data=image_folder", "data.batch_size=4", "trainer.max_epochs=1", "probe=log", "name=sw", "seed=0"]
    for name, shade in (("first", 0), ("copied", 0), ("others", 1)):
        images(tmp_path / name, shade)

    def sweep(root):
        status, output = command("--multirun", *TINY[1:], *options, f"data.root={tmp_path / root}")
        assert status == 0, output
        folders = {file.parent.name for file in (tmp_path / "multirun" / "sw").glob("*/run.json")}
        return folders, "1 of 1 runs are already finished" in output

    first, finished = sweep("first")
    assert (len(first), finished) == (1, False)
    assert sweep("copied") == (first, True)
    every, finished = sweep("others")
    assert (len(every), finished) == (2, False)
    assert len({state.read(tmp_path / "multirun" / "sw" / name)["images"] for name in every}) == 2
    assert sweep("others") == (every, True)


def test_a_run_does_not_resume_on_classes_of_other_names(tmp_path):
    options = ["data=image_folder", "data.batch_size=4", "trainer.max_epochs=9", "probe=log"]
    first, renamed = images(tmp_path / "first"), images(tmp_path / "renamed")
    for split in ("train", "test"):
        (renamed / split / "bee").rename(renamed / split / "wasp")
    folder = tiny_run(tmp_path / "run", *options, f"data.root={first}", "trainer.max_steps=1")
    before = content(folder)
    with pytest.raises(InputError, match="data: the class names differ from those the run in"):
        tiny_run(folder, *options, f"data.root={renamed}", "trainer.max_steps=2")
    assert content(folder) == before


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "run.json"}


def test_a_run_without_a_hash_resumes_at_its_place_alone(tmp_path):
    options = ["data=image_folder", "data.batch_size=4", "trainer.max_epochs=100"]
    first = images(tmp_path / "first")
    folder = tiny_run(tmp_path / "run", *options, f"data.root={first}", "trainer.max_steps=2")
    entries = state.read(folder)
    del entries["images"], entries["schema"]
    (folder / "run.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"data\.root=\S*elsewhere differs from data\.root=\S*first"):
        identity.refuse_other(folder, tiny_config(*options, f"data.root={tmp_path}/elsewhere", "trainer.max_steps=3"))
    tiny_run(folder, *options, f"data.root={first}", "trainer.max_steps=3")


ROW = [(0, 0.9, 0.1, 0.8)]


def test_seeds_are_pooled_by_their_images_not_by_where_these_lie(tmp_path):
    for seed, (root, hashed) in enumerate((("a", "1"), ("b", "1"), ("c", "2"), ("a", None), ("d", None))):
        config = {"seed": seed, "data": {"root": root}, "loss": {"cutoff": 0.1}}
        more = {} if hashed is None else {"images": hashed}
        overrides = [f"seed={seed}", f"data.root={root}"]
        made_run(
            tmp_path / str(seed),
            ROW,
            overrides=overrides,
            started=str(seed),
            config=config,
            seeds={"seed": seed},
            **more,
        )
    groups = [[run.folder.name for run in one.runs] for one in settings(find_runs([tmp_path])[0])]
    assert groups == [["0", "1", "3"], ["2"], ["4"]]  # an older run has no hash, and is taken by its place


def test_limits_that_are_swept_are_settings_and_others_are_not(tmp_path):
    for number, (seed, epochs) in enumerate(((0, 1), (0, 2), (1, 2), (1, 1))):
        config = {"seed": seed, "trainer": {"max_epochs": epochs}}
        overrides = [f"seed={seed}", f"trainer.max_epochs={epochs}"]
        made_run(
            tmp_path / str(number), ROW, overrides=overrides, started=str(number), config=config, seeds={"seed": seed}
        )
    runs = find_runs([tmp_path])[0]
    groups = {one.label: [run.folder.name for run in one.runs] for one in settings(runs)}
    assert groups == {"trainer.max_epochs=1": ["0", "3"], "trainer.max_epochs=2": ["1", "2"]}
    (one,) = settings([runs[0], runs[2]])
    assert len(one.runs) == 2
    assert json.loads((one.runs[0].folder / "run.json").read_text())["status"] == "completed"
