"""Runs that return a number to a sweeper other than igb's."""

import math
import sys

import pytest
from hydra.core.plugins import Plugins

import hydra_plugins
import igb
from igb._checks import InputError
from igb.report.summary import objective
from tests.conftest import TINY, tiny_run
from tests.helpers import sweepers
from tests.helpers.runs import made_run
from tests.helpers.sweepers import Least


@pytest.fixture
def search(command, tmp_path, monkeypatch):
    """Runs a search over two batches of seeds with a sweeper of its own, and gives what that was returned."""
    monkeypatch.setitem(sys.modules, "hydra_plugins.stub", sweepers)  # Hydra takes its plugins from there alone
    monkeypatch.setattr(hydra_plugins, "stub", sweepers, raising=False)
    monkeypatch.setattr(Least, "__module__", "hydra_plugins.stub")
    Plugins.instance().register(Least)
    (tmp_path / "mine" / "hydra" / "sweeper").mkdir(parents=True)
    (tmp_path / "mine" / "hydra" / "sweeper" / "least.yaml").write_text(
        "_target_: hydra_plugins.stub.Least\nkey: seed\nbatches: [[0, 1], [2]]\n"
    )

    def run(*options):
        least = ("--config-dir", "mine", "--multirun", "hydra/sweeper=least")
        status, output = command(*least, *TINY, "trainer.max_steps=10", "probe.images=50", *options)
        assert status == 0, output
        return Least.returned

    return run


def value_of(folder, name):
    table = igb.load_runs(folder)
    last = table[table["step"] == table["step"].max()]
    return {"dominance": last["guess_fraction"].max(), "accuracy": last["accuracy"].mean()}[name]


@pytest.mark.parametrize("launcher", ["basic", pytest.param("local", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dominance", pytest.param("accuracy", marks=pytest.mark.slow)])
def test_another_sweeper_gets_the_number_of_each_run(search, tmp_path, name, launcher):
    returned = search(f"objective={name}", f"hydra/launcher={launcher}")
    folders = sorted(path.parent for path in tmp_path.glob("multirun/*/*/*/run.json"))
    assert [folder.name for folder in folders] == ["0", "1", "2"]
    expected = [value_of(folder, name) for folder in folders]
    assert [value for batch in returned for value in batch] == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 1


def test_without_an_objective_it_gets_the_status(search):
    assert search() == [["completed"] * 2, ["completed"]]


def test_the_step_of_an_escape_is_infinite_if_it_has_not_come(finished, tmp_path):
    stuck = made_run(tmp_path / "stuck", [(0, 0.9, 0.1, 0.9), (8, 0.8, 0.2, 0.8)], seeds={})
    assert objective(stuck, "escape_step") == math.inf
    dominance = igb.load_runs(finished / "ce").query("batch_norm == 'running'").groupby("step")["guess_fraction"].max()
    below = dominance[::-1].lt(0.5).cummin()[::-1]
    assert objective(finished / "ce", "escape_step") == below.idxmax()
    assert below.any()


def test_a_run_that_is_not_finished_has_no_objective(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=1", "probe.images=50")
    file = folder / "run.json"
    file.write_text(file.read_text().replace('"completed"', '"interrupted"'))
    with pytest.raises(InputError, match=r"run: interrupted, measured up to step 1 of 1"):
        objective(folder, "accuracy")


def test_an_unknown_objective_is_named_before_the_run(command):
    status, output = command(*TINY, "objective=loss")
    assert (status, output) == (1, "igb: objective=loss must be one of dominance, accuracy, escape_step\n")
