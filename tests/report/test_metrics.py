"""The definitions of docs/report.md on curves whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igb.report.metrics import Censored, escape_step, favoured_order, first_for_good, half_life, median, rise_steps

NAN = float("nan")


def table(rows, steps):
    return pd.DataFrame(rows, index=steps, dtype=float)


@pytest.mark.parametrize(
    ("dominance", "expected"),
    [
        ([1.0, 0.8, 0.4, 0.3], 4),
        ([1.0, 0.4, 0.6, 0.3], 9),  # it came back once
        ([1.0, 0.4, 0.3, 0.5], Censored(9)),  # at the threshold is not under it
        ([0.4, 0.4, 0.3, 0.3], 0),
        ([0.4, 0.9, 0.3, 0.3], 4),
        ([1.0, 1.0, 1.0, 1.0], Censored(9)),
        ([1.0, 0.2, NAN, 0.2], 9),
        ([1.0, 0.2, 0.2, NAN], Censored(9)),
    ],
)
def test_the_escape_step_is_the_first_probe_under_the_threshold_for_good(dominance, expected):
    rows = [[d, (1 - d) / 3, (1 - d) / 3, (1 - d) / 3] for d in dominance]
    assert escape_step(table(rows, [0, 1, 4, 9])) == expected


def test_the_dominant_class_may_change_and_the_threshold_be_another():
    guesses = table([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], [0, 10, 20])
    assert escape_step(guesses) == Censored(20)
    assert escape_step(guesses, threshold=0.71) == 10
    assert escape_step(guesses, threshold=1) == 0


def test_the_half_life_of_an_exponential_is_ln_2_over_its_rate():
    steps = np.arange(101)
    excess = 0.9 * np.exp(-0.05 * steps)  # half after 13.86 steps
    probability = table(np.stack([0.1 + excess, *[np.full(101, 0.1)] * 9], axis=1), steps)
    assert half_life(probability, 0) == 14
    assert half_life(probability.iloc[:14], 0) == Censored(13)
    assert half_life(probability, 1) is None  # it has no excess


def test_learning_that_raises_every_class_is_no_excess():
    probability = table([[0.7, 0.1], [0.9, 0.3], [0.95, 0.9]], [0, 1, 2])
    assert half_life(probability, 0) == 2


def test_the_half_life_is_the_first_time_also_if_the_class_rises_again():
    assert half_life(table([[1, 0], [0.6, 0.4], [1, 0]], [0, 5, 6]), 0) == 5


def test_broken_outputs_have_no_half_life():
    assert half_life(table([[NAN, NAN], [0.5, 0.5]], [0, 1]), 0) is None
    assert half_life(table([[1, 0], [NAN, NAN]], [0, 1]), 0) == Censored(1)


def test_a_class_has_risen_when_it_stays_above_one_and_a_half_over_c():
    probability = table(
        [[1.0, 0.0, 0.0, 0.375], [0.2, 0.4, 0.5, 0.376], [0.5, 0.5, 0.3, 0.4], [0.5, 0.6, 0.375, 0.4]], [0, 1, 2, 3]
    )
    assert rise_steps(probability) == [2, 1, Censored(3), 1]


def test_the_order_is_by_guesses_and_then_by_probability():
    guesses, means = table([[0.0, 0.8, 0.0, 0.2]], [0]), table([[0.1, 0.2, 0.5, 0.2]], [0])
    assert favoured_order(guesses, means) == [1, 3, 2, 0]
    assert favoured_order(table([[0.5, 0.5]], [0]), table([[0.4, 0.6]], [0])) == [1, 0]
    assert favoured_order(table([[0.4, 0.4, 0.2]], [0]), table([[0.3, 0.3, 0.4]], [0])) == [0, 1, 2]


@pytest.mark.parametrize("guesses", [[0.5, 0.5], [1.0, 0.0]])  # as of today, and of older runs
def test_equal_outputs_favour_no_class(guesses):
    assert favoured_order(table([guesses], [0]), table([[0.5, 0.5]], [0])) is None


def test_outputs_that_are_not_finite_favour_no_class():
    assert favoured_order(table([[NAN, 1.0]], [0]), table([[0.5, 0.5]], [0])) is None


@pytest.mark.parametrize(
    ("event_times", "expected"),
    [
        ([3], 3),
        ([5, 1, 3], 3),
        ([1, 2], 1.5),
        ([1, 3], 2),
        ([1, Censored(9), 2], 2),
        ([1, Censored(9)], Censored(5)),
        ([Censored(9), Censored(9), 2], Censored(9)),
        ([Censored(9), 20, 30], Censored(20)),  # it may be anything from 20 to 30
        ([Censored(40), 20, 30], 30),
        ([], None),
    ],
)
def test_the_median_is_censored_where_it_was_not_seen(event_times, expected):
    assert median(event_times) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_escape_is_for_good_and_as_early_as_can_be(dominance, threshold):
    steps = [step * step for step in range(len(dominance))]
    found = escape_step(table([[d] for d in dominance], steps), threshold)
    if isinstance(found, Censored):
        assert found.step == steps[-1]
        assert dominance[-1] >= threshold
    else:
        place = steps.index(found)
        assert all(d < threshold for d in dominance[place:])
        assert place == 0 or dominance[place - 1] >= threshold


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=9), st.lists(st.integers(0, 60)))
def test_a_median_holds_however_long_the_censored_ones_take(event_times, later):
    times = [Censored(step) if is_censored else step for step, is_censored in event_times]
    found = median(times)
    waits = [*later, *[10**6] * len(times)]
    completed = [
        step + wait if is_censored else step for (step, is_censored), wait in zip(event_times, waits, strict=False)
    ]
    actual = float(np.median(completed))
    if isinstance(found, Censored):
        assert int(actual) >= found.step
    else:
        assert actual == found


def test_a_censored_moment_reads_as_such():
    assert str(Censored(31260)) == ">31260"
    assert pd.DataFrame({"step": [Censored(7)]}).to_csv(index=False) == "step\n>7\n"


def test_for_good_is_to_the_last_probe():
    assert first_for_good([0, 2, 8], np.array([False, True, True])) == 2
    assert first_for_good([0], np.array([False])) == Censored(0)
