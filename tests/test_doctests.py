"""The examples in docstrings: every class with a formula has one, and what it prints is true."""

import doctest
import importlib

import pytest
from torch import nn

import igb.losses

MODULES = (
    "losses.true_class", "losses.all_classes", "losses.schedule", "schedule", "models.plain", "theory.guesses",
    "theory.propagation", "theory.phases", "theory.activations", "tracing", "statistics", "report.metrics",
    "compute.cpu.products",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    failed, tried = doctest.testmod(importlib.import_module(f"igb.{name}"))
    assert failed == 0
    assert tried > 0


def test_every_loss_has_an_example():
    losses = [made for made in vars(igb.losses).values() if isinstance(made, type) and issubclass(made, nn.Module)]
    abstract = {igb.losses.ProbabilityLoss, igb.losses.TrueClassLoss}
    assert len(losses) > len(abstract)
    assert [loss for loss in losses if ">>>" not in loss.__doc__ and loss not in abstract] == []
