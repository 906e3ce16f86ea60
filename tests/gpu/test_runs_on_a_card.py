"""Runs on a CUDA card, beside the same on the CPU in float64: `make test-gpu`."""

import copy
import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import igb
from benchmarks.precision import Autocast
from igb import experiment
from igb._checks import InputError
from igb.compute import CALIBRATION, fold
from igb.compute.cuda import graphs
from igb.report.runs import read_metrics
from tests.helpers.networks import Tiny

pytestmark = pytest.mark.gpu
STEPS = 20
OPTIONS = (
    "data=digits", "trainer.accelerator=gpu", f"trainer.max_steps={STEPS}", "optimizer.lr=0.01", "init=torchvision",
    "probe.images=200", "probe.batch_norm=both", "probe.chunk=100",
)  # fmt: skip
MODELS = ("resnet18", "resnet50")


def run(folder, *overrides):
    assert experiment.run(experiment.compose(*OPTIONS, *overrides), folder) == "completed"
    return folder


def entries(folder):
    return json.loads((folder / "run.json").read_text())


def probabilities(folder, step, batch_norm="running"):
    table = read_metrics(folder / "metrics.csv", 10)
    return table[(table["step"] == step) & (table["batch_norm"] == batch_norm)]["probability"].to_numpy()


def losses(folder):
    return pd.read_csv(folder / "train.csv")["loss"].to_numpy()


def in_float64(*overrides):
    """p̄ at initialisation and after the steps of a run, by plain torch on the CPU."""
    config = experiment.compose(*OPTIONS, "trainer.accelerator=cpu", *overrides)
    parts = experiment.build(config)
    data = parts.data
    data.setup()
    network = parts.make_network().double()
    order = parts.probe.order(data.test_labels)

    def measured():
        return igb.measure(
            network,
            data.test_images[order],
            data.test_labels[order],
            transform=lambda images: data.scale(images).double(),
        ).probability.numpy()

    before = measured()
    network.train()
    for number, (images, labels, _) in enumerate(data.train_dataloader()):
        if number == STEPS:
            break
        network.zero_grad()
        F.cross_entropy(network(data.scale(images).double()), labels).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= config.optimizer.lr * parameter.grad
    return before, measured()


@pytest.mark.parametrize("model", MODELS)
def test_exact_is_as_near_to_float64_as_on_the_cpu(tmp_path, model):
    before, after = in_float64(f"model={model}")
    card = run(tmp_path / "card", f"model={model}")
    cpu = run(tmp_path / "cpu", f"model={model}", "trainer.accelerator=cpu")
    assert entries(card)["device"].startswith("cuda")
    assert np.abs(probabilities(card, 0) - before).max() < 1e-5
    of_card, of_cpu = (np.abs(probabilities(folder, STEPS) - after).max() for folder in (card, cpu))
    assert of_card <= max(2 * of_cpu, 1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_exact_repeats_to_the_bit(tmp_path, model):
    first, second = (run(tmp_path / name, f"model={model}", "optimizer.momentum=0.9") for name in ("1", "2"))
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert np.array_equal(losses(first), losses(second))
    assert entries(first)["deterministic"] is True
    assert "gpu" in entries(first)["hardware"]


@pytest.mark.parametrize("model", MODELS)
def test_exact_resumes_to_the_bit(tmp_path, model):
    options = (f"model={model}", "optimizer.momentum=0.9")
    whole = run(tmp_path / "whole", *options)
    run(tmp_path / "parts", *options, f"trainer.max_steps={STEPS // 2}")
    parts = run(tmp_path / "parts", *options)
    assert entries(parts)["resumed"] == [STEPS // 2]
    assert (whole / "metrics.csv").read_bytes() == (parts / "metrics.csv").read_bytes()
    assert np.array_equal(losses(whole), losses(parts))


def test_nothing_waits_for_the_card_between_two_probes(tmp_path, monkeypatch):
    original = experiment.Classifier.training_step

    def watched(self, *arguments):
        with torch.cuda.device(self.device):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return original(self, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(experiment.Classifier, "training_step", watched)
    run(tmp_path / "run", "model=resnet18", "probe=log")


@pytest.mark.parametrize("model", MODELS)
def test_fast_measures_what_exact_does(tmp_path, model):
    """Of the weights before and after a run of `fast`: within the tolerance in p̄, or nearer than autocast."""
    folder = run(tmp_path / "run", f"model={model}", "compute=fast")
    config = experiment.compose(*OPTIONS, f"model={model}")
    parts = experiment.build(config)
    data = parts.data
    data.setup()
    order = parts.probe.order(data.test_labels)
    images, labels = data.test_images[order].cuda(), data.test_labels[order].cuda()
    calibration = data.scale(images[:CALIBRATION])
    for step, network, tolerance in ((0, parts.make_network(), 0.005), (STEPS, igb.load_network(folder), 0.01)):
        network = network.cuda().eval()
        twins = (fold(network, torch.float32, calibration), Autocast(copy.deepcopy(network)))
        exact, autocast = (
            igb.measure(twin, images, labels, transform=data.scale).probability.numpy() for twin in twins
        )
        assert np.abs(probabilities(folder, step) - exact).max() <= max(tolerance, np.abs(autocast - exact).max())


@pytest.mark.parametrize("model", [*MODELS, "tiny"])
def test_fast_replays_what_it_would_have_called(tmp_path, monkeypatch, model):
    """Over a smaller last batch and a loss that changes after epoch one; bfloat16 leaves some noise."""
    replays = []
    original = graphs.Recording.replay
    monkeypatch.setattr(graphs.Recording, "replay", lambda self: replays.append(self) or original(self))
    options = [
        "model._target_=tests.helpers.networks.Tiny" if model == "tiny" else f"model={model}", "compute=fast",
        "loss=bl", "loss.warmup_epochs=1", "optimizer.momentum=0.9", "trainer.max_steps=60",
    ]  # fmt: skip
    found = run(tmp_path / "replays", *options)
    # Steps and probes in both views, of each loss the first three apart, and the last batch of epoch one.
    assert len(replays) == (44 - 3) + (15 - 3) + 2 * (45 - 1 - 3) + 2 * (16 - 3)
    assert entries(found)["deterministic"] is False
    monkeypatch.setattr(experiment.Compute, "is_recorded", lambda self, device: False)
    expected = run(tmp_path / "calls", *options)
    np.testing.assert_allclose(losses(found)[:10], losses(expected)[:10], rtol=0.05)
    for view in ("running", "batch"):
        np.testing.assert_allclose(probabilities(found, 5, view), probabilities(expected, 5, view), atol=0.02)
    assert probabilities(found, 60).shape == (10,)


def test_a_network_that_waits_for_the_card_is_called(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "run", "model._target_=tests.helpers.networks.Waiting", "compute=fast")
    assert "the training step cannot be recorded as a CUDA graph and will be slower" in caplog.text


def test_a_network_on_a_card_is_measured_as_on_the_cpu():
    torch.manual_seed(0)
    network = Tiny(10)
    images, labels = torch.randn(50, 1, 32, 32), torch.arange(50) % 10
    for mode in ("running", "batch"):
        expected = igb.measure(copy.deepcopy(network).double(), images.double(), labels, batch_norm=mode)
        for given in (images, images.cuda()):
            found = igb.measure(copy.deepcopy(network).cuda(), given, labels, batch_norm=mode)
            assert found.probability.device.type == "cpu"
            assert torch.allclose(found.probability_matrix, expected.probability_matrix, atol=1e-5)
            assert torch.equal(found.prediction_matrix, expected.prediction_matrix)
            assert torch.allclose(found.gradient_norm, expected.gradient_norm, atol=1e-5)


def test_outputs_that_are_not_finite_guess_no_class():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).cuda()
    images, labels = torch.zeros(6, 1, 2, 2), torch.arange(6) % 3
    images[0] = torch.nan
    stats = igb.measure(network, images, labels)
    assert torch.isnan(stats.prediction_matrix[0]).all()
    assert not torch.isnan(stats.prediction_matrix[1:]).any()


@pytest.mark.parametrize("compute", ["exact", "fast"])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path, compute):
    config = experiment.compose(*OPTIONS, "model=resnet18", f"compute={compute}", "optimizer.lr=1e20")
    assert experiment.run(config, tmp_path / "run") == "diverged"


def test_a_batch_that_does_not_fit_is_named(tmp_path):
    options = ("model=resnet50", "data.image_size=512", "data.batch_size=1437", "probe.images=10")
    with pytest.raises(InputError, match=r"data\.batch_size=1437 does not fit the memory of cuda:0; lower it"):
        run(tmp_path / "run", *options)


def test_a_probe_that_does_not_fit_takes_smaller_chunks(tmp_path, caplog):
    """Of a card whose memory is nearly taken."""
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - (3 << 30)), dtype=torch.uint8, device="cuda")
    options = (
        "model=resnet50", "data.image_size=256", "data.batch_size=2", "trainer.max_epochs=0", "probe.images=360",
        "probe.chunk=360", "probe.batch_norm=running",
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        found = run(tmp_path / "run", *options)
    del taken
    torch.cuda.empty_cache()
    assert "a probe does not fit the memory of cuda:0; going on with probe.chunk=" in caplog.text
    assert probabilities(found, 0).shape == (10,)
