import logging
import re

import pytest
import torch

from igb import experiment
from igb._checks import InputError
from igb.folder import state
from igb.report.runs import read_metrics
from igb.training.classifier import Classifier
from igb.training.probe import Probe, probe_order
from igb.training.step import Step
from tests.conftest import tiny_config, tiny_run


def test_the_order_of_the_images_is_one_for_all_and_mixes_the_classes():
    labels = torch.arange(10).repeat_interleave(100)
    order = probe_order(labels, None)
    assert sorted(order.tolist()) == list(range(1000))
    torch.manual_seed(5)
    assert torch.equal(order, probe_order(labels, None))
    assert all(len(labels[part].unique()) == 10 for part in order.split(100))


@pytest.mark.parametrize("count", [10, 37, 200, 1000])
def test_a_subset_has_every_class_in_proportion(count):
    labels = torch.arange(10).repeat_interleave(torch.tensor([10, 190, 100, 100, 100, 100, 100, 100, 100, 100]))
    order = probe_order(labels, count)
    assert len(order.unique()) == count
    per_class = labels[order].bincount(minlength=10)
    assert (per_class >= 1).all()
    expected = labels.bincount() * count / len(labels)
    assert (per_class - expected).abs().max() <= 1
    full = probe_order(labels, None).tolist()
    assert order.tolist() == [index for index in full if index in set(order.tolist())]  # in the one order


@pytest.mark.parametrize("count", [9, 1001])
def test_a_subset_that_cannot_be_is_refused(count):
    with pytest.raises(InputError, match=rf"images={count} must be between 10 \(one per class\) and 1000"):
        probe_order(torch.arange(10).repeat(100), count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 10}, "points=10 must be a whole number of at least 11"),
        ({"images": 0}, "images=0 must be"),
        ({"batch_norm": "eval"}, "batch_norm=eval must be one of running, batch, both"),
        ({"chunk": 0}, "chunk=0 must be a whole number of at least 1"),
        ({"chunk": 1, "batch_norm": "both"}, "chunk=1 must be a whole number of at least 2"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Probe(**options)


def test_training_is_as_if_it_had_not_been_probed(tmp_path):
    """Weights, running statistics and optimizer state after a run with many probes and one with few are the same."""
    common = ["+model.dropout=0.5", "optimizer.momentum=0.9", "trainer.max_epochs=2"]  # dropout draws random numbers
    checkpoints = []
    for name, probe in (
        ("many", ["probe.batch_norm=both", "probe.chunk=50"]),
        ("few", ["probe=log", "probe.points=11"]),
    ):
        folder = tiny_run(tmp_path / name, *common, *probe)
        checkpoints.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))
    many, few = checkpoints
    assert many["state_dict"].keys() == few["state_dict"].keys()
    assert all(torch.equal(many["state_dict"][name], few["state_dict"][name]) for name in many["state_dict"])
    buffers = [part["optimizer_states"][0]["state"] for part in checkpoints]
    assert all(torch.equal(buffers[0][k]["momentum_buffer"], buffers[1][k]["momentum_buffer"]) for k in buffers[0])


def test_training_is_as_if_there_were_no_probe(tmp_path):
    with_probe = torch.load(
        tiny_run(tmp_path / "with", "trainer.max_epochs=2") / "checkpoints" / "last.ckpt", weights_only=True
    )
    parts = experiment.build(tiny_config())
    parts.data.setup()
    torch.manual_seed(0)
    classifier = Classifier(parts.make_network(), parts.loss_schedule, parts.make_optimizer, parts.compute)
    step = Step(classifier, classifier.configure_optimizers())
    for epoch in range(2):
        loader = parts.data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for images, labels, _ in loader:
            step(parts.data.scale(images), labels, parts.loss_schedule.at(epoch))
    weights = classifier.network.state_dict()
    assert all(torch.equal(with_probe["state_dict"][f"network.{name}"], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("TooMany", "model returns 12 logits, but the data have 10 classes; its constructor must use num_classes"),
        ("Two", "model returns a tuple; it must return logits [N, C]"),
    ],
)
def test_a_model_that_does_not_give_a_logit_for_each_class_is_refused(tmp_path, model, message):
    with pytest.raises(InputError, match=re.escape(message)):
        tiny_run(tmp_path / "run", f"model._target_=tests.helpers.networks.{model}", "probe=log")


def test_the_loss_is_that_of_the_next_step_and_at_the_end_of_the_last(tmp_path):
    """Uniform outputs are dead for piecewise-zero and alive for the cross-entropy of the warm-up."""
    folder = tiny_run(
        tmp_path / "run", "loss=pz", "loss.cutoff=1.0", "loss.warmup_epochs=1", "trainer.max_epochs=2", "optimizer.lr=0"
    )
    active = read_metrics(folder / "metrics.csv", 10).groupby("step")["active_fraction"].max()
    assert (active.loc[:44] == 1).all()
    assert active.loc[45] == 0  # the next step is the first of epoch two
    assert active.loc[90] == 0
    only_warmup = tiny_run(
        tmp_path / "warm", "loss=pz", "loss.cutoff=1.0", "loss.warmup_epochs=1", "trainer.max_epochs=1"
    )
    active = read_metrics(only_warmup / "metrics.csv", 10).groupby("step")["active_fraction"].max()
    assert active.loc[45] == 1


HUNGRY = ("model._target_=tests.helpers.networks.Hungry", "+model.limit=7", "probe.images=50", "trainer.max_steps=2")


def test_a_probe_that_does_not_fit_takes_smaller_chunks(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = tiny_run(tmp_path / "found", *HUNGRY, "+model.training=false", "probe.chunk=20")
    assert "a probe does not fit the memory of cpu; going on with probe.chunk=5" in caplog.messages
    expected = tiny_run(tmp_path / "expected", "probe.images=50", "trainer.max_steps=2", "probe.chunk=5")
    assert (found / "metrics.csv").read_text() == (expected / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("+model.training=false", "probe.batch_norm=batch"),
            r"probe\.chunk=500 does not fit the memory of cpu; lower it",
        ),
        (("+model.training=true",), r"data\.batch_size=32 does not fit the memory of cpu; lower it"),
    ],
)
def test_what_must_fit_is_named_in_one_line(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        tiny_run(tmp_path / "run", *HUNGRY, *options)
    assert state.read(tmp_path / "run")["status"] == "failed"
