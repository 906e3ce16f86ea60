import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from igb._paths import config_folder
from igb.schedule import LOG_POINTS, Schedule, probe_steps


def test_every_batch_of_epoch_one_then_every_epoch():
    assert probe_steps(5, 20, None) == [0, 1, 2, 3, 4, 5, 10, 15, 20]


def test_the_last_step_is_probed_wherever_the_run_ends():
    assert probe_steps(5, 12, None) == [0, 1, 2, 3, 4, 5, 10, 12]
    assert probe_steps(5, 3, None) == [0, 1, 2, 3]
    assert probe_steps(5, 0, None) == [0]
    assert probe_steps(1000, 500, 20)[-1] == 500


@pytest.mark.parametrize("steps_per_epoch", [1, 9, 10, 11, 12, 45, 400, 1563, 50_000])
@pytest.mark.parametrize("points", [11, 12, 40, 300])
def test_log_schedule_takes_its_number_of_batches(steps_per_epoch, points):
    steps = probe_steps(steps_per_epoch, 3 * steps_per_epoch, points)
    first_epoch = [step for step in steps if 0 < step <= steps_per_epoch]
    assert len(first_epoch) == min(points, steps_per_epoch)
    assert first_epoch[:10] == list(range(1, min(10, steps_per_epoch) + 1))
    assert first_epoch[-1] == steps_per_epoch
    assert [step for step in steps if step > steps_per_epoch] == [2 * steps_per_epoch, 3 * steps_per_epoch]
    assert steps == sorted(set(steps))


def test_log_schedule_is_evenly_spaced_on_a_log_axis():
    steps = torch.tensor(probe_steps(1563, 1563, 40)[20:], dtype=torch.float64)
    ratios = steps[1:] / steps[:-1]
    assert ratios.max() / ratios.min() < 1.05


@given(
    per_epoch=st.integers(1, 5000),
    total=st.integers(0, 20_000),
    points=st.none() | st.integers(11, 500),
)
def test_probes_go_from_the_start_to_the_end_with_the_first_ten_steps_and_every_epoch(per_epoch, total, points):
    steps = probe_steps(per_epoch, total, points)
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, total)
    ends = set(range(0, total + 1, per_epoch))
    assert ends | set(range(min(10, per_epoch, total) + 1)) <= set(steps)
    in_first = [step for step in steps if 0 < step <= per_epoch]
    assert len(in_first) <= min(points or per_epoch, per_epoch) + (total < per_epoch)
    assert {step for step in steps if step > per_epoch} <= ends | {total}


def test_a_schedule_counts_steps_epochs_and_probes():
    schedule = Schedule.of(steps_per_epoch=5, max_epochs=4, max_steps=12, points=None)
    assert (schedule.total_steps, schedule.epochs) == (12, 3)
    assert schedule.probe_steps == (0, 1, 2, 3, 4, 5, 10, 12)
    assert [schedule.probes_until(step) for step in (0, 5, 9, 12)] == [1, 6, 6, 8]
    assert [step for step in range(13) if schedule.is_probed(step)] == list(schedule.probe_steps)
    assert [step for step in range(1, 13) if schedule.ends_epoch(step)] == [5, 10, 12]
    assert schedule.epoch(12) == 2.4
    assert [schedule.next_epoch(step) for step in (0, 4, 5, 10, 12)] == [0, 0, 1, 2, 2]  # after the last, that of it
    assert Schedule.of(5, 2, None, None).next_epoch(10) == 1
    assert Schedule.of(5, 0, None, None).probe_steps == (0,)


def test_the_number_of_points_is_that_of_the_config():
    assert yaml.safe_load((config_folder() / "probe" / "log.yaml").read_text())["points"] == LOG_POINTS
