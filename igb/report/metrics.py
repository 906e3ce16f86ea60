"""When a run leaves its initial guessing bias: definitions, with equations in docs/report.md."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

THRESHOLD = 0.5  # of dominance
RISEN = 1.5  # times 1/C

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Censored:
    """An event that had not happened by the last probe, at step `step`.

    >>> str(Censored(300)), median([100, 200, Censored(300)])
    ('>300', 200)
    """

    step: int

    def __str__(self) -> str:
        return f">{self.step}"


EventTime = int | Censored


def first_for_good(steps: Sequence[int], holds: npt.NDArray[np.bool_]) -> EventTime:
    """The first probed step from which a condition holds at every probe to the end."""
    broken = np.flatnonzero(~holds)
    first = int(broken[-1]) + 1 if broken.size else 0
    return int(steps[first]) if first < len(steps) else Censored(int(steps[-1]))


def escape_step(guess_fraction: pd.DataFrame, threshold: float = THRESHOLD) -> EventTime:
    """The first probe from which dominance, max_j G_j, stays under the threshold; 0 if it always was.

    `guess_fraction` has a row for each step and a column for each class. NaN is not under it.
    """
    dominance = guess_fraction.max(axis=1, skipna=False)
    return first_for_good(guess_fraction.index, (dominance < threshold).to_numpy())


def half_life(probability: pd.DataFrame, favoured: int) -> EventTime | None:
    """The first probe at which the favoured class's excess p̄ is at most half of what it was at initialisation.

    The excess is p̄_f - mean_k p̄_k; learning that raises every p̄_k alike does not change it. None if there was none.
    """
    excess = (probability[favoured] - probability.mean(axis=1, skipna=False)).to_numpy()
    if not excess[0] > 0:
        return None
    reached = np.flatnonzero(excess <= excess[0] / 2)
    return int(probability.index[reached[0]]) if reached.size else Censored(int(probability.index[-1]))


def rise_steps(probability: pd.DataFrame) -> list[EventTime]:
    """For each class k the first probe from which p̄_k stays above 1.5/C."""
    above = probability.to_numpy() > RISEN / probability.shape[1]
    return [first_for_good(probability.index, column) for column in above.T]


def favoured_order(guess_fraction: pd.DataFrame, mean_probability: pd.DataFrame) -> list[int] | None:
    """The classes from the most to the least guessed at initialisation; None if no class is favoured there.

    Classes with the same guess fraction are ordered by mean probability: under a strong bias most have fraction 0. No
    class is favoured if the outputs are equal or not finite.
    """
    guesses, means = guess_fraction.iloc[0].to_numpy(), mean_probability.iloc[0].to_numpy()
    if not np.isfinite([guesses, means]).all() or equal_outputs(mean_probability):
        return None
    return [int(k) for k in np.lexsort((np.arange(len(guesses)), -means, -guesses))]


def equal_outputs(mean_probability: pd.DataFrame) -> bool:
    """Whether the outputs at initialisation are equal for all classes, as with a head that starts at zero.

    This looks at mean probabilities only, because older runs counted such a tie as a guess of the first class.
    """
    means = mean_probability.iloc[0].to_numpy()
    return len(set(means.tolist())) == 1


def most_guessed(guesses: pd.Series) -> int | None:
    """The class most guessed at a probe; None if several are, or if the outputs are not finite."""
    first = guesses == guesses.max(skipna=False)
    return int(first.idxmax()) if first.sum() == 1 else None


def median(event_times: Sequence[EventTime]) -> EventTime | float | None:
    """The median over runs; None if there are none.

    If it depends on when a censored event will happen, it is censored too, at its lower bound.
    """
    if not event_times:
        return None
    least = statistics.median(map(_step, event_times))
    most = statistics.median(math.inf if isinstance(event_time, Censored) else event_time for event_time in event_times)
    if least != most:
        return Censored(int(least))
    return int(least) if float(least).is_integer() else least


def grouped(number: float) -> str:
    """A number of steps with a thousands separator, and with .5 if a median has it."""
    return f"{number:,.1f}".removesuffix(".0")


def _step(event_time: EventTime) -> int:
    return event_time.step if isinstance(event_time, Censored) else event_time
