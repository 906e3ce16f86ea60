"""Schedules of the learning rate, other optimizers and clipping, in runs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from igb import experiment
from igb._checks import InputError
from igb.training import adam, adamw
from igb.training.rates import constant, cosine, step, warmup
from igb.training.step import Step
from tests.conftest import tiny_config, tiny_run


def test_factors_are_those_of_the_formulas():
    assert {constant()(epoch) for epoch in (0.01, 1, 100)} == {1.0}
    assert [step(10, 0.1)(epoch) for epoch in (0.01, 10, 10.01, 20, 25)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert step(1e7)(1e-3) == step(1e7, 0.0)(1e-3) == 1  # far before the first
    assert [cosine(20)(epoch) for epoch in (1e-9, 5, 10, 20, 30)] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, 0, 0])
    assert [cosine(20, 0.2)(epoch) for epoch in (1e-9, 10, 40)] == pytest.approx([1, 0.6, 0.2])
    assert [warmup(2)(epoch) for epoch in (0.1, 1, 2, 3)] == pytest.approx([0.05, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step(0), "epochs=0 must be a finite number of at least 0.001"),
        (lambda: step(gamma=2), "gamma=2 must be a finite number from 0 to 1"),
        (lambda: cosine(-1), "epochs=-1 must be"),
        (lambda: cosine(last=1.5), "last=1.5 must be a finite number from 0 to 1"),
        (lambda: warmup(0), "epochs=0 must be"),
        (lambda: adam(betas=[0.9]), r"betas=\[0.9\] must be two numbers"),
        (lambda: adam(betas=[0.9, 1.0]), "betas=1.0 must be a finite number from 0 to"),
        (lambda: adamw(lr=-1), "lr=-1 must be a finite number of at least 0"),
        (lambda: adamw(eps=-1), "eps=-1 must be"),
        (lambda: adam(weight_decay=-1), "weight_decay=-1 must be"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["loss=anl", "loss.second.p_min=1"], r"loss\.second\.p_min=1 must be a finite number"),
        (["loss=sce", "loss.alpha=-1"], r"loss\.alpha=-1 must be a finite number"),
        (["optimizer=adam", "optimizer.eps=-1"], r"optimizer\.eps=-1 must be a finite number"),
    ],
)
def test_the_key_of_a_wrong_value_is_named_also_within_a_part(option, message):
    with pytest.raises(InputError, match=f"^{message}"):
        experiment.build(tiny_config(*option))


@pytest.mark.parametrize("value", ["0", "-1", "inf", "abc"])
def test_a_norm_to_clip_to_is_above_zero(tmp_path, value):
    with pytest.raises(InputError, match=r"trainer\.gradient_clip=.* must be a finite number of at least 1e-12"):
        experiment.build(tiny_config(f"trainer.gradient_clip={value}"))


def test_the_rate_of_every_step_is_recorded(tmp_path):
    """45 batches to an epoch; the last rate of an epoch is that of its end."""
    options = ("probe=log", "probe.images=10", "trainer.max_steps=100", "optimizer.lr=0.01")
    for schedule, own, expected in (
        ("step", ["schedule.epochs=1", "schedule.gamma=0.5"], lambda n: 0.01 * 0.5 ** ((n - 1) // 45)),
        ("cosine", ["schedule.epochs=2"], lambda n: 0.01 * (1 + math.cos(math.pi * min(n / 90, 1))) / 2),
        ("warmup", [], lambda n: 0.01 * min(n / 45, 1)),
    ):
        folder = tiny_run(tmp_path / schedule, f"schedule={schedule}", *own, *options)
        rates = pd.read_csv(folder / "train.csv")["lr"]
        np.testing.assert_allclose(rates, [expected(n) for n in range(1, 101)], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_optimizers_are_those_of_torch(tmp_path, optimizer):
    torch.manual_seed(0)
    networks = [torch.nn.Linear(4, 3) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    options = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    ours = {"adam": adam, "adamw": adamw}[optimizer](**options)(networks[0].parameters())
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](networks[1].parameters(), **options)
    images, labels = torch.randn(8, 4), torch.arange(8) % 3
    for network, chosen in zip(networks, (ours, theirs), strict=True):
        for _ in range(5):
            Step(network, chosen)(images, labels, torch.nn.functional.cross_entropy)
    assert torch.equal(networks[0].weight, networks[1].weight)


def test_a_larger_gradient_is_scaled_to_the_norm():
    torch.manual_seed(0)
    images, labels = torch.randn(8, 4), torch.arange(8) % 3
    moved = {}
    for clip in (None, 0.01, 1e6):
        network = torch.nn.Linear(4, 3)
        torch.nn.init.ones_(network.weight)
        torch.nn.init.zeros_(network.bias)
        Step(network, torch.optim.SGD(network.parameters(), lr=1.0), clip=clip)(
            images, labels, torch.nn.functional.cross_entropy
        )
        moved[clip] = torch.cat([(network.weight - 1).flatten(), network.bias]).detach()
    assert torch.equal(moved[None], moved[1e6])
    assert moved[0.01].norm().item() == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(moved[0.01] / moved[0.01].norm(), moved[None] / moved[None].norm())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ["optimizer=adam", "schedule=cosine", "schedule.epochs=2", "trainer.gradient_clip=0.5"],
            marks=pytest.mark.slow,
        ),
        ["optimizer=adamw", "schedule=warmup", "loss.ramp_epochs=1", "loss=pz"],
        ["schedule=step", "schedule.epochs=1", "init.calibrate=true", "init.center=true", "loss=gce"],
    ],
    ids=" ".join,
)
def test_a_resumed_run_comes_to_the_same_numbers(tmp_path, options):
    options = [*options, "probe=log", "probe.points=12", "probe.images=20", "optimizer.lr=0.01"]
    whole = tiny_run(tmp_path / "whole", *options, "trainer.max_steps=100")
    for steps in (30, 60, 100):
        parts = tiny_run(tmp_path / "parts", *options, f"trainer.max_steps={steps}")
    expected, found = (pd.read_csv(folder / "train.csv")[["step", "loss", "lr"]] for folder in (whole, parts))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    last = [(folder / "metrics.csv").read_text().rstrip().splitlines()[-10:] for folder in (whole, parts)]
    assert last[0] == last[1]
