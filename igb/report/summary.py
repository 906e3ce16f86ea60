"""The summary table: where a run started, where it was after epoch one, and where it ended."""

import math
from collections.abc import Sequence

import pandas as pd

from igb.report.runs import Run


def summarize(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run and batch-norm mode.

    Columns: run, status, batch_norm, steps done at the last probe, the favoured class (most guessed at
    initialisation), dominance (share of the most guessed class) at the start, after epoch one and at the end, and
    mean and worst class accuracy at the end. What a run has not reached is empty.
    """
    return pd.DataFrame([_row(run, mode) for run in runs for mode in run.modes])


def _row(run: Run, mode: str) -> dict[str, object]:
    guesses = run.table("guess_fraction", mode)
    dominance = guesses.max(axis=1, skipna=False)
    accuracy = run.table("accuracy", mode).iloc[-1]
    start = guesses.iloc[0]
    return {
        "run": run.label,
        "status": run.info["status"],
        "batch_norm": mode,
        "steps": guesses.index[-1],
        "favoured_class": None if start.isna().any() else run.class_names[start.idxmax()],
        "dominance_start": dominance.iloc[0],
        "dominance_epoch_1": dominance.get(run.info["steps_per_epoch"], math.nan),
        "dominance_end": dominance.iloc[-1],
        "mean_accuracy": accuracy.mean(skipna=False),
        "worst_accuracy": accuracy.min(skipna=False),
    }
