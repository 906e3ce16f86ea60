"""Tables: a row for each run, for each of its classes, and for each setting over its seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from igb._checks import InputError
from igb.folder.schema import OBJECTIVES
from igb.report.metrics import (
    THRESHOLD,
    Censored,
    EventTime,
    equal_outputs,
    escape_step,
    favoured_order,
    half_life,
    median,
    most_guessed,
    rise_steps,
)  # fmt: skip
from igb.report.prediction import dominance_of, drift_ratio_of
from igb.report.runs import Run, read_run
from igb.report.settings import FEWEST, bounds_of_rate, mean_and_bounds, settings, swept

# What each column means, for the page; docs/report.md has the equations.
COLUMN_HELP = {
    "run": "What tells the run from the others.",
    "setting": "What tells the setting from the others; its runs differ in nothing but their seeds.",
    "status": "completed, diverged, running, interrupted or failed.",
    "batch_norm": "Normalised by running statistics (evaluation mode, the paper's) or by those of each chunk.",
    "n": "Number of runs, each with its own seeds.",
    "steps": "Optimizer steps done at the last probe; for a setting, those of its shortest run.",
    "favoured_class": "The class most guessed at initialisation; none is favoured where the outputs are equal.",
    "dominant_class": "The class most guessed at the last probe; empty where several are.",
    "dominance_start": "Share of all guesses that the most guessed class takes, max_j G_j, at initialisation.",
    "dominance_epoch_1": "The same after epoch one.",
    "dominance_end": "The same at the last probe.",
    "weight_start": "Mean weight, at initialisation, of the loss of the first step (cross-entropy in a warm-up): what "
    "it lets through of the gradient of cross-entropy. Over seeds, the mean.",
    "drift_ratio_start": "Variance of the classes' mean logits over that of logits over images, at initialisation. "
    "Over seeds, the mean.",
    "drift_ratio_theory": "What the mean-field theory gives for it, where it covers network and initialisation.",
    "dominance_theory": "The mean over networks of dominance at initialisation, by the theory.",
    "escape_step": "First probe from which dominance stays under {threshold:g} to the end of the run; "
    ">N if it had not come by step N. Over seeds, the median.",
    "escaped": "Runs that have escaped.",
    "escape_rate": "The share of runs that have escaped.",
    "escape_rate_low": "Lower bound of its exact 95 % interval (Clopper and Pearson).",
    "escape_rate_high": "The upper bound of it.",
    "half_life": "First probe at which the favoured class's p̄, less the mean p̄ of all classes, is at most half of what "
    "it was at initialisation. Over seeds, the median.",
    "mean_accuracy": "Mean of the classes' accuracies at the last probe.",
    "worst_accuracy": "The lowest of the classes' accuracies at the last probe.",
    "mean_accuracy_low": "Lower bound of its 95 % interval over seeds (Student's t, within 0 and 1); with fewer than "
    "five seeds, the least of them.",
    "mean_accuracy_high": "The upper bound, or the largest.",
    "worst_accuracy_low": "The lower bound for the lowest accuracy.",
    "worst_accuracy_high": "The upper bound for it.",
    "dominance_end_low": "The lower bound for dominance at the last probe.",
    "dominance_end_high": "The upper bound for it.",
    "memorised": "Of the training images with wrong labels (of a class, of those that are wrongly labelled as it), the "
    "share predicted as labelled at the last probe.",
    "recovered": "The share of them that is predicted as what they are.",
    "memorised_low": "The lower bound for the share that is memorised.",
    "memorised_high": "The upper bound for it.",
    "recovered_low": "The lower bound for the share that is recovered.",
    "recovered_high": "The upper bound for it.",
    "class_name": "The class.",
    "rank": "Its rank by guess fraction at initialisation; 1 is the favoured class.",
    "rise_step": "First probe from which the class's p̄ stays above 1.5 times chance, 1 over the number of classes.",
    "probability": "p̄ of the class at the last probe.",
    "accuracy": "Its accuracy at the last probe.",
}


# Means over seeds, without bounds.
AT_START = ("dominance_start", "weight_start", "drift_ratio_start", "drift_ratio_theory", "dominance_theory")
EQUAL = "none: equal outputs"  # in place of a favoured class
OF_LABELS = {"memorised": "wrong.predicted_given", "recovered": "wrong.predicted_true"}  # of runs with wrong labels
OVER_SEEDS = ("dominance_end", "mean_accuracy", "worst_accuracy", *OF_LABELS)  # a setting has means and bounds of these

# Types of the numeric columns. Not here: event times, which may be censored, and swept keys, which may be anything.
NUMBERS: dict[str, Any] = {
    **dict.fromkeys(("n", "steps", "escaped"), int),
    **dict.fromkeys((*AT_START, "dominance_epoch_1", "dominance_end"), float),
    **dict.fromkeys(("escape_rate", "escape_rate_low", "escape_rate_high"), float),
    **dict.fromkeys(("mean_accuracy", "worst_accuracy", *OF_LABELS), float),
    **dict.fromkeys((f"{name}_{bound}" for name in OVER_SEEDS for bound in ("low", "high")), float),
}


def summarize(runs: Sequence[Run], threshold: float = THRESHOLD) -> pd.DataFrame:
    """A row for each run and batch-norm mode, with the columns that COLUMN_HELP explains.

    A value that a run has not reached is empty; an event that had not happened by its last probe is `Censored`.
    """
    rows = [_row(run, mode, threshold) for run in runs for mode in run.modes]
    return _frame(rows)


def objective(folder: Path, name: str) -> float:
    """The number of `OBJECTIVES` for a run, in the first of its batch-norm modes; infinite if it has not escaped.

    InputError if the run is not finished.
    """
    run = read_run(folder)
    if run.unfinished:
        raise InputError(f"{folder}: {run.unfinished}")
    value: Any = _row(run, run.modes[0], THRESHOLD)[OBJECTIVES[name]]
    return math.inf if isinstance(value, Censored) else float(value)


def summarize_classes(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run, batch-norm mode and class."""
    return pd.DataFrame([row for run in runs for mode in run.modes for row in _class_rows(run, mode)])


def summarize_settings(runs: Sequence[Run], threshold: float = THRESHOLD) -> pd.DataFrame:
    """A row for each setting and batch-norm mode: means and 95 % intervals over its seeds, medians of the event times.

    It has a column for each swept key too.
    """
    keys = swept(runs)
    rows = []
    for one in settings(runs):
        summary = summarize(one.runs, threshold)
        for mode, group in summary.groupby("batch_norm", sort=False):
            row: dict[str, Any] = {"setting": one.label}
            row |= {f"config.{key}": one.runs[0].value(key) for key in keys}
            row |= {"batch_norm": mode, "n": len(group), "steps": group["steps"].min()}
            escapes = group["escape_step"].tolist()
            escaped = sum(not isinstance(event_time, Censored) for event_time in escapes)
            low, high = bounds_of_rate(escaped, len(group))
            row |= {"escaped": escaped, "escape_rate": escaped / len(group)}
            row |= {"escape_rate_low": low, "escape_rate_high": high}
            row |= {"escape_step": median(escapes)}
            row |= {"half_life": median([event_time for event_time in group["half_life"] if event_time is not None])}
            row |= {name: group[name].mean() for name in AT_START if name in group}
            for name in filter(group.__contains__, OVER_SEEDS):
                values = group[name].to_numpy(dtype=float)
                counted = np.ones((len(values), 1), dtype=bool)
                mean, low, high = (part.item() for part in mean_and_bounds(values[:, None], counted, bounded=True))
                if 1 < len(values) < FEWEST:
                    low, high = values.min(), values.max()
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return _frame(rows)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table of rows, of which some may lack columns that others have."""
    table = pd.DataFrame(rows, dtype=object)
    return table.astype({name: kind for name, kind in NUMBERS.items() if name in table})


def _row(run: Run, mode: str, threshold: float) -> dict[str, object]:
    guesses, probability = run.table("guess_fraction", mode), run.table("probability", mode)
    dominance = run.overall("dominance", mode)
    accuracy = run.table("accuracy", mode).iloc[-1]
    order = favoured_order(guesses, run.table("mean_probability", mode))
    last = most_guessed(guesses.iloc[-1])
    ratio = drift_ratio_of(run, mode)
    predicted = None if ratio is None else dominance_of(ratio, len(run.class_names))
    of_labels = {name: run.overall(quantity, mode) for name, quantity in OF_LABELS.items()}
    return {
        "run": run.label,
        "status": run.info["status"],
        "batch_norm": mode,
        "steps": guesses.index[-1],
        "favoured_class": _favoured(run, mode, order),
        "dominance_start": dominance.iloc[0],
        "dominance_epoch_1": dominance.get(run.steps_per_epoch, math.nan),
        "dominance_end": dominance.iloc[-1],
        "weight_start": weight_start(run, mode),
        **({"drift_ratio_theory": ratio, "dominance_theory": predicted} if ratio is not None else {}),
        "drift_ratio_start": run.table("drift_ratio", mode).iloc[0].mean(skipna=False),
        "dominant_class": None if last is None else run.class_names[last],
        "escape_step": escape_step(guesses, threshold),
        "half_life": None if order is None else half_life(probability, order[0]),
        "mean_accuracy": accuracy.mean(skipna=False),
        "worst_accuracy": accuracy.min(skipna=False),
        **{name: found.iloc[-1] for name, found in of_labels.items() if found.notna().any()},
    }


def weight_start(run: Run, mode: str) -> float:
    """The mean weight of a run's loss over all images at initialisation; NaN for a run of an older version."""
    return float(np.average(run.table("weight", mode).iloc[0], weights=run.table("count", mode).iloc[0]))


def _favoured(run: Run, mode: str, order: list[int] | None) -> str | None:
    if order is not None:
        return run.class_names[order[0]]
    return EQUAL if equal_outputs(run.table("mean_probability", mode)) else None


def _class_rows(run: Run, mode: str) -> list[dict[str, object]]:
    guesses, probability = run.table("guess_fraction", mode), run.table("probability", mode)
    order = favoured_order(guesses, run.table("mean_probability", mode))
    rises: list[EventTime] = rise_steps(probability)
    accuracy, memorised = run.table("accuracy", mode).iloc[-1], run.table("memorised", mode)
    return [
        {
            "run": run.label,
            "batch_norm": mode,
            "class": k,
            "class_name": name,
            "rank": None if order is None else order.index(k) + 1,
            "rise_step": rises[k],
            "probability": probability[k].iloc[-1],
            "accuracy": accuracy[k],
            **({"memorised": memorised[k].iloc[-1]} if len(memorised) else {}),
        }
        for k, name in enumerate(run.class_names)
    ]
