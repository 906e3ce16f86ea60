"""What is recorded and replayed, on the CPU: a recording that calls its work again stands in for a CUDA graph."""

import logging
from typing import ClassVar

import pandas as pd
import pytest
import torch

from igb.compute import Compute
from igb.compute.cuda import graphs
from igb.compute.cuda.graphs import WARM_UP, Graphed
from igb.training.step import GraphedStep, Step
from tests.conftest import tiny_run


class Recording:
    """Carries the work out at a replay alone, into a result that each replay overwrites, as on a card."""

    made: ClassVar[list["Recording"]] = []

    def __init__(self, work, stream):
        self.work, self.replays, self.result = work, 0, None
        self.made.append(self)

    def replay(self):
        result = self.work()
        self.replays += 1
        self.result = result.clone() if self.result is None else self.result.copy_(result)
        return self.result


@pytest.fixture
def made(monkeypatch):
    """All recordings that were made."""
    monkeypatch.setattr(Recording, "made", [])
    monkeypatch.setattr(graphs, "Recording", Recording)
    return Recording.made


def test_a_function_is_called_first_and_replayed_then(made):
    graphed = Graphed(lambda x, y: x.sum() * y, "it")
    results = [graphed(torch.full((2,), float(number)), torch.tensor(3.0)) for number in range(9)]
    assert [float(result) for result in results] == [6 * number for number in range(9)]  # none is overwritten
    assert [recording.replays for recording in made] == [9 - WARM_UP]


def test_inputs_of_other_shapes_are_not_replayed(made):
    graphed = Graphed(torch.sum, "it")
    for size in (2, 2, 2, 2, 1, 2):
        assert float(graphed(torch.ones(size))) == size
    assert [recording.replays for recording in made] == [2]


def test_another_key_is_recorded_anew(made):
    factor = 1
    graphed = Graphed(lambda x: factor * x, "it")
    for factor in (1, 2):
        assert [float(graphed(torch.tensor(5.0), key=[factor])) for _ in range(6)] == [5 * factor] * 6
    assert [recording.replays for recording in made] == [3, 3]


def test_what_cannot_be_recorded_is_called(monkeypatch, caplog):
    def fail(work, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "Recording", fail)
    graphed = Graphed(torch.sum, "the step")
    with caplog.at_level(logging.WARNING):
        assert [float(graphed(torch.ones(2))) for _ in range(9)] == [2] * 9
    (line,) = caplog.messages
    assert line.startswith("the step cannot be recorded as a CUDA graph and will be slower: operation not permitted")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_run_of_replays_has_the_numbers_of_one_of_calls(made, monkeypatch, tmp_path, momentum):
    """With a smaller last batch, a loss that changes after epoch one, and both batch-norm modes."""
    options = (
        "loss=bl", "loss.warmup_epochs=1", "trainer.max_epochs=2", "probe.batch_norm=both", "probe.images=60",
        "probe.chunk=25", f"optimizer.momentum={momentum}", "+model.dropout=0.0", "probe=log", "probe.points=20",
    )  # fmt: skip
    tiny_run(tmp_path / "calls", *options)
    assert not made
    monkeypatch.setattr(Compute, "is_recorded", lambda self, device: True)
    tiny_run(tmp_path / "replays", *options)
    calls, replays = (tmp_path / name for name in ("calls", "replays"))
    assert (calls / "metrics.csv").read_text() == (replays / "metrics.csv").read_text()
    losses = [pd.read_csv(folder / "train.csv")[["step", "loss"]] for folder in (calls, replays)]
    pd.testing.assert_frame_equal(*losses)
    steps = [recording.replays for recording in made]
    # Each loss in epochs of 44 whole batches: the step, and the first loss in both views. The second has one probe.
    assert sorted(steps) == sorted([44 - WARM_UP, 44 - WARM_UP, 20 - WARM_UP - 1, 20 - WARM_UP - 1])


def test_a_learning_rate_that_changes_is_not_replayed(made):
    def trained(make):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        step = make(Step(network, torch.optim.SGD(network.parameters(), lr=0.1)))
        for number in range(12):
            if number == 6:
                step_of(step).optimizer.param_groups[0]["lr"] = 0.7
            step(images, labels, torch.nn.functional.cross_entropy)
        return network.weight

    def step_of(step):
        return step._step if isinstance(step, GraphedStep) else step

    images, labels = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    assert torch.equal(trained(lambda step: step), trained(GraphedStep))
    assert [recording.replays for recording in made] == [3, 3]
