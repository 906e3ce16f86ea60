import logging
import os
import re
import signal
import sys
import time

import pytest

from igb import statistics
from igb.training.classifier import Classifier
from igb.training.eta import duration
from igb.training.stopping import StoppedError
from tests.conftest import tiny_run


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for steps, of one second each, and probes, of ten unless changed."""
    state = {"now": 0.0, "probe": 10.0}
    original_step, original_measure = Classifier.training_step, statistics.measure

    def step(self, *arguments):
        state["now"] += 1
        return original_step(self, *arguments)

    def measure(*arguments, **options):
        state["now"] += state["probe"]
        return original_measure(*arguments, **options)

    monkeypatch.setattr(Classifier, "training_step", step)
    monkeypatch.setattr(statistics, "measure", measure)
    monkeypatch.setattr(time, "perf_counter", lambda: state["now"])
    return state


def estimates(caplog):
    return [record.message for record in caplog.records if record.message.startswith("estimate")]


def test_after_ten_steps_the_rest_is_estimated(tmp_path, clock, caplog):
    """Of 90 steps 80 are to go, with 36 of 47 probes; the log schedule has 42."""
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path / "run", "trainer.max_epochs=2")
    expected = "estimated time left: 7 min (6 min of it for probes); the whole run with probe=log: 8 min"
    assert estimates(caplog) == [expected]
    assert clock["now"] == 90 * 1 + 47 * 10  # what was estimated came true, to the second


@pytest.mark.parametrize(("options", "seconds"), [(["probe=log"], 10), ([], 0.5)])
def test_the_log_schedule_is_only_offered_where_it_helps(tmp_path, clock, caplog, options, seconds):
    clock["probe"] = seconds
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path / "run", "trainer.max_epochs=2", *options)
    (line,) = estimates(caplog)
    assert "probe=log" not in line


def test_a_run_of_ten_steps_is_not_estimated(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path / "run", "trainer.max_steps=10")
    assert estimates(caplog) == []


def test_a_run_that_goes_on_between_two_probes_has_not_timed_one(tmp_path, clock, caplog, monkeypatch, capfd):
    def step(self, *arguments):
        if self.global_step == 45:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    original = Classifier.training_step
    options = ["trainer.max_epochs=3", "probe=log", "probe.points=11"]
    with monkeypatch.context() as context:
        context.setattr(Classifier, "training_step", step)
        with pytest.raises(StoppedError):
            tiny_run(tmp_path / "run", *options)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        tiny_run(tmp_path / "run", *options)
    assert estimates(caplog) == ["estimated time left: 79 s for training; probes not timed yet"]
    shown = re.findall(r"Epoch (\d): .*? (\d+)/45 \[.*?to go=(\w* ?\d+ s)", capfd.readouterr().out.replace("\r", "\n"))
    to_go = {(epoch, batch): left for epoch, batch, left in shown}
    assert to_go["1", "10"] == "over 80 s"  # in the rest of the second epoch
    assert to_go["2", "10"] == "45 s"  # in the third, after a probe


def test_the_progress_bar_knows_the_time_to_go(tmp_path, clock, monkeypatch, capfd):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tiny_run(tmp_path / "run", "trainer.max_epochs=1", "probe=log", "probe.points=11")
    printed = capfd.readouterr().out.replace("\r", "\n")
    shown = re.findall(r"(\d+)/45 \[.*?to go=(\d+ s)", printed)
    assert re.search(r"45/45 \[.*?to go=0 s, loss=\d\.\d+, dominance=0\.\d+\]", printed)
    to_go = dict(shown)
    assert to_go["20"] == "35 s"  # 25 steps and the last probe; an average over steps so far would say 2 min
    assert to_go["45"] == "0 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (3540, "59 min"), (3580, "1 h 00 min"), (11_100, "3 h 05 min")],
)
def test_durations_are_in_the_units_a_reader_would_choose(seconds, text):
    assert duration(seconds) == text
