import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import igb
from igb import experiment
from igb._checks import InputError
from igb._paths import config_folder
from igb.report.runs import read_metrics
from tests.conftest import TINY, tiny_config, tiny_run


def test_a_rerun_gives_identical_records(tmp_path):
    for name in ("one", "two"):
        tiny_run(tmp_path / name, "trainer.max_epochs=2", "loss=bl")
    assert (tmp_path / "one" / "metrics.csv").read_bytes() == (tmp_path / "two" / "metrics.csv").read_bytes()
    columns = ["step", "epoch", "loss", "lr"]
    tables = [pd.read_csv(tmp_path / name / "train.csv")[columns] for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_losses_share_the_initial_network(finished):
    columns = ["class", "batch_norm", "count", "probability", "accuracy", "mean_probability", "guess_fraction"]
    starts = [read_metrics(finished / loss / "metrics.csv", 10).query("step == 0") for loss in ("ce", "bl", "pz")]
    for other in starts[1:]:
        pd.testing.assert_frame_equal(starts[0][columns], other[columns], check_exact=True)


def test_losses_share_the_batches(tmp_path, monkeypatch):
    served = {}

    def spy(self, batch, batch_index):
        served[name].append(batch[1].tolist())
        return original(self, batch, batch_index)

    original = experiment.Classifier.training_step
    monkeypatch.setattr(experiment.Classifier, "training_step", spy)
    for name in ("ce", "bl", "pz"):
        served[name] = []
        tiny_run(tmp_path / name, f"loss={name}", "trainer.max_epochs=2", "probe=log")
    assert len(served["ce"]) == 90
    assert served["ce"] == served["bl"] == served["pz"]
    assert served["ce"][:45] != served["ce"][45:]  # another order in every epoch


def test_seeds_can_be_chosen_apart(tmp_path):
    def losses(*overrides):
        folder = tiny_run(tmp_path / "-".join(overrides), "trainer.max_steps=3", *overrides)
        return pd.read_csv(folder / "train.csv")["loss"].tolist(), (folder / "metrics.csv").read_text().split("\n1,")[0]

    base, other_data, other_init = losses("seed=1"), losses("seed=1", "data_seed=2"), losses("seed=1", "init_seed=2")
    assert base[1] == other_data[1]  # the same initial network
    assert base[0] != other_data[0]
    assert base[1] != other_init[1]


def test_the_control_moves_no_weight_and_stands_still_in_batch_mode(tmp_path):
    folder = tiny_run(tmp_path / "run", "experiment=batchnorm_control", "trainer.max_epochs=1", "data=digits")
    table = read_metrics(folder / "metrics.csv", 10)
    probability = table.pivot(index="step", columns=["batch_norm", "class"], values="probability")
    assert probability["batch"].nunique().eq(1).all()
    assert probability["running"].nunique().gt(40).all()


def test_the_trained_network_of_a_run_can_be_loaded(finished):
    folder = finished / "ce"
    with pytest.raises(
        InputError, match=r"is tests\.helpers\.networks\.Tiny, which is not a network from .* pass trust=True"
    ):
        igb.load_network(folder)
    network = igb.load_network(folder, trust=True)
    assert not network.training
    data = experiment.build(tiny_config()).data
    data.setup()
    stats = igb.measure(network, data.scale(data.test_images), data.test_labels)
    last = read_metrics(folder / "metrics.csv", 10).query("step == 90 and batch_norm == 'running'")
    assert stats.probability.tolist() == pytest.approx(last["probability"].tolist(), rel=1e-5)
    assert stats.accuracy.tolist() == pytest.approx(last["accuracy"].tolist())


def test_a_network_that_is_not_there_or_damaged_is_one_line(finished, tmp_path):
    with pytest.raises(InputError, match="is not a run folder, or its run has not loaded its data yet"):
        igb.load_network(tmp_path)
    folder = tiny_run(tmp_path / "run", "trainer.max_epochs=0")
    with pytest.raises(InputError, match=r"has no checkpoints/last\.ckpt"):
        igb.load_network(folder, trust=True)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((finished / "ce" / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt is damaged"):
        igb.load_network(folder, trust=True)


@pytest.fixture
def chosen(tmp_path):
    """A run folder whose model is what one gives."""
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=1", "probe.images=10")
    entries = json.loads((folder / "run.json").read_text())

    def choose(model):
        entries["config"]["model"] = model
        (folder / "run.json").write_text(json.dumps(entries))
        return folder

    return choose


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "torch.nn.functional.importlib.import_module", "torch.os.system", "torch.load", "torch.hub.load",
        "igb.load_network", "tests.conftest.x", "${oc.env:HOME}", "torchvision.io.write_file",
        "torchvision.datasets.utils.download_url", "timm.models.load_checkpoint",
    ],
)  # fmt: skip
def test_a_folder_runs_no_code_of_its_choice(chosen, target):
    """However deep it stands."""
    resnet, evil = {"_target_": "torchvision.models.resnet18"}, {"_target_": target}
    for model in (evil, resnet | {"norm_layer": evil}, resnet | {"layers": [[1, {"x": evil}]]}):
        with pytest.raises(InputError, match=f"{re.escape(target)}, which is not a network from"):
            igb.load_network(chosen(model))


def test_a_folder_makes_no_code_by_resolving(chosen):
    text = "${oc.create:{_target_: builtins.print, _args_: [PWNED]}}"
    with pytest.raises(
        InputError, match="which is not a network from igb, torchvision, torch or timm; pass trust=True if you trust it"
    ):
        igb.load_network(chosen({"_target_": "torch.nn.Linear", "in_features": text, "out_features": 10}))


@pytest.mark.parametrize("target", ["torchvision.models.nothing", "timm.nothing"])
def test_a_network_that_is_not_there_any_more_is_one_line(chosen, target):
    with pytest.raises(InputError, match=r"the network of .* cannot be built \(.*nothing"):
        igb.load_network(chosen({"_target_": target}))


def test_one_image_cannot_be_a_batch_where_there_is_batch_norm(tmp_path):
    with pytest.raises(InputError, match=r"data\.batch_size=1 must be at least 2 for a network with batch norm"):
        tiny_run(tmp_path / "run", "data.batch_size=1")
    assert not (tmp_path / "run").exists()


def test_a_network_without_batch_norm_trains_on_single_images(tmp_path):
    overrides = ["data.batch_size=1", "trainer.max_steps=2", "model._target_=tests.helpers.networks.Linear"]
    assert experiment.run(tiny_config(*overrides), tmp_path / "run") == "completed"


def test_the_spine_stays_short():
    for part in (experiment.run, experiment.carry_out, experiment.build):
        assert len(inspect.getsource(part).splitlines()) < 85


@pytest.mark.slow
def test_denormals_count_as_zero_in_every_thread_of_a_run(tmp_path):
    code = """
import sys
import igb.cli
from igb._imports import quick_imports
with quick_imports():
    import igb.experiment
import torch
from igb.training.classifier import Classifier

def look(self, original=Classifier.on_fit_start):
    assert "torchmetrics" in sys.modules and "scipy.signal" not in sys.modules
    print((torch.full((10**6,), 1e-30) * 1e-10).count_nonzero())
    original(self)

Classifier.on_fit_start = look
igb.cli.main()
print(torch.full((1,), 1e-30) * 1e-10 > 0)
"""
    large = "model._target_=tests.helpers.networks.Large"  # is made by several threads
    options = [large, "data=digits", "trainer.accelerator=cpu", "compute.threads=2", "trainer.max_epochs=0"]
    result = subprocess.run(
        [sys.executable, "-c", code, *options, f"hydra.run.dir={tmp_path}/run"], cwd=config_folder().parent,
        env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "\ntensor(0)\n" in result.stdout
    assert result.stdout.endswith("\ntensor([True])\n")  # as it was before the run


def test_threads_are_recorded_as_torch_has_them(finished):
    assert json.loads((finished / "ce" / "run.json").read_text())["threads"] == torch.get_num_threads()


def test_the_configs_of_tests_are_those_that_hydra_composes():
    overrides = ["loss=pz", "loss.cutoff=0.2", "seed=3", "optimizer.lr=1e-2", "trainer.max_steps=null", "+model.fuse=4"]
    overrides += ["probe=log", "probe.batch_norm=both", "loss.cutoff=0.3", "data.root='a b'"][:3]
    assert tiny_config(*overrides) == experiment.compose(*TINY, *overrides)


def test_a_mixture_of_options_is_refused_from_python_too():
    with pytest.raises(InputError, match=r"loss=\[ce,pz\] would merge these options into one config"):
        experiment.compose("loss=[ce,pz]")


def test_a_run_in_colour(tmp_path, image_folder):
    """On files in gray and in colour; its network takes three channels, in the run and when it is loaded."""
    options = (
        "data=image_folder", f"data.root={image_folder}", "data.batch_size=3", "model=resnet18", "probe.images=4",
        "trainer.max_steps=2", "probe.batch_norm=both", "trainer.accelerator=cpu", "compute.threads=1",
    )  # fmt: skip
    config = experiment.compose(*options, "data.color=true")
    assert experiment.run(config, tmp_path / "run") == "completed"
    network = igb.load_network(tmp_path / "run")
    assert network.conv1.in_channels == 3
    data = experiment.build(config).data
    data.setup()
    stats = igb.measure(network, data.scale(data.test_images), data.test_labels)
    found = read_metrics(tmp_path / "run" / "metrics.csv", 2)
    last = found[(found["step"] == 2) & (found["batch_norm"] == "running")]
    np.testing.assert_allclose(stats.probability, last["probability"], atol=1e-5)
    with pytest.raises(InputError, match=r"data\.color=False differs from data\.color=True"):
        experiment.run(experiment.compose(*options), tmp_path / "run")


def test_a_network_that_does_not_take_colour_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model: TypeError: .*unexpected keyword argument 'in_channels'"):
        tiny_run(tmp_path / "run", "data.color=true", "model._target_=tests.helpers.networks.Linear")
