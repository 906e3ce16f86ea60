"""The answer in words: did each setting leave its initial guessing bias, when, and what its gradient says."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from igb.report.escape import Array, Censored, Moment, escape_step, favoured_order, median
from igb.report.runs import Run
from igb.report.settings import Panel, mean_and_half_width


def answer(panels: Sequence[Panel], threshold: float) -> list[tuple[str, str]]:
    """The title of each panel, and a few sentences about it."""
    return [
        (
            panel.title.replace("\n", " "),
            _of_one(panel.runs[0], panel.mode, threshold) if len(panel.runs) == 1 else _of_several(panel, threshold),
        )
        for panel in panels
    ]


def when(step: int | float, steps_per_epoch: int) -> str:
    """A number of steps as one reads it: batches in epoch one, epochs later."""
    if step < steps_per_epoch or (step % steps_per_epoch and step < 2 * steps_per_epoch):
        return f"{step:,g} batch{'es' if step != 1 else ''}"
    epochs = step / steps_per_epoch
    return f"{epochs:,.2f}".rstrip("0").rstrip(".") + f" epoch{'s' if epochs != 1 else ''}"


def share(fraction: float) -> str:
    """A fraction in per cent, never rounded to all or none."""
    if 0.995 <= fraction < 1:
        return "over 99 %"
    return "under 1 %" if 0 < fraction < 0.005 else f"{fraction:.0%}".replace("%", " %")


def _of_one(run: Run, mode: str, threshold: float) -> str:
    guesses = run.table("guess_fraction", mode)
    order = favoured_order(guesses, run.table("mean_probability", mode))
    if order is None:
        return "Its outputs at initialisation are not finite."
    dominance = guesses.max(axis=1, skipna=False)
    favoured, start = run.class_names[order[0]], dominance.iloc[0]
    if len(guesses) == 1:
        return f"At initialisation its most guessed class, {favoured}, takes {share(start)} of all guesses."
    last = when(int(guesses.index[-1]), run.steps_per_epoch)
    escape, end = escape_step(guesses, threshold), dominance.iloc[-1]
    biased = start >= threshold
    also = _alive([run], mode, 0, "had")
    if not np.isfinite(end):
        text = (
            f"{favoured} took {share(start)} of all guesses at initialisation; the outputs after {last} are not finite."
        )
    elif isinstance(escape, Censored):
        number = int(guesses.iloc[-1].idxmax())
        takes = f"takes {share(end)} of all guesses after {last}"
        if not biased:
            text = f"It had no dominant class at initialisation, but one class, {run.class_names[number]}, {takes}."
        elif number == order[0]:
            text = f"One class, {favoured}, still {takes}."
        else:
            text = f"It left {favoured}, but another class, {run.class_names[number]}, {takes}."
        also = _alive([run], mode, -1, "have")
    elif biased:
        text = (
            f"It left its initial class, {favoured} ({share(start)} of all guesses at initialisation), after "
            f"{when(escape, run.steps_per_epoch)}."
        )
    else:
        text = f"It had no dominant class at initialisation (the most guessed, {favoured}, took {share(start)})"
        text += f"; one had for a while, until {when(escape, run.steps_per_epoch)} were done." if escape else "."
    accuracy = run.table("accuracy", mode).iloc[-1].mean(skipna=False)
    ended = f"Mean accuracy after {last}: {share(accuracy)}." if np.isfinite(accuracy) else ""
    return " ".join(filter(None, (text, also, ended)))


def _of_several(panel: Panel, threshold: float) -> str:
    runs, mode = panel.runs, panel.mode
    tables = [run.table("guess_fraction", mode) for run in runs]
    start = _interval([table.iloc[0].max(skipna=False) for table in tables])
    text = f"At initialisation the most guessed class takes {start} of all guesses"
    if max(map(len, tables)) == 1:
        return f"{text} (mean of {len(runs)} runs)."
    escapes = [escape_step(table, threshold) for table in tables]
    left = [moment for moment in escapes if not isinstance(moment, Censored)]
    trapped = [number for number, moment in enumerate(escapes) if isinstance(moment, Censored)]
    sentences = [f"{text}.", _alive(runs, mode, 0, "had")]
    if left:
        which = "All" if not trapped else f"{len(left)} of"
        sentences.append(f"{which} {len(runs)} runs left that state, {_after(left, panel.steps_per_epoch)}.")
    if trapped:
        end = _interval([tables[number].iloc[-1].max(skipna=False) for number in trapped])
        same = sum(_most(tables[number], 0) == _most(tables[number], -1) for number in trapped)
        which = "The others did not" if left else f"None of {len(runs)} runs left that state"
        where = f"the one favoured at the start in {same} of {len(trapped)}"
        sentences.append(f"{which}: at the end one class, {where}, takes {end} of all guesses.")
        sentences.append(_alive([runs[number] for number in trapped], mode, -1, "have"))
    accuracy = _interval([run.table("accuracy", mode).iloc[-1].mean(skipna=False) for run in runs])
    return " ".join(filter(None, [*sentences, f"Mean accuracy at the end: {accuracy}."]))


def _after(moments: Sequence[Moment], steps_per_epoch: int) -> str:
    """When runs escaped: the median and the range."""
    steps = sorted(moment for moment in moments if isinstance(moment, int))
    if steps[-1] == 0:
        return "or rather were never in it"
    text = f"after {when(steps[0], steps_per_epoch)}"
    if steps[0] == steps[-1]:
        return text
    middle = median(steps)
    assert isinstance(middle, int | float)
    return f"after a median of {when(middle, steps_per_epoch)} ({steps[0]:,} to {steps[-1]:,} steps)"


def _most(table: pd.DataFrame, row: int) -> int | None:
    """The class most guessed at a probe; None if the outputs are not finite."""
    guesses = table.iloc[row]
    return None if guesses.isna().any() else int(guesses.idxmax())


def _interval(values: Sequence[float]) -> str:
    """A mean over runs with its 95 % interval."""
    column: Array = np.array(values, dtype=float)[:, None]
    mean, half = (float(item.item()) for item in mean_and_half_width(column, np.ones(column.shape, dtype=bool)))
    if not np.isfinite(mean):
        return "an undefined share"
    return f"{100 * mean:.3g} % ± {100 * half:.{0 if half >= 0.1 else 1}f} %" if half >= 0.0005 else share(mean)


def _alive(runs: Sequence[Run], mode: str, row: int, verb: str) -> str:
    """How many of the images that are not of the most guessed class can pull the network away, mean of some runs."""
    parts = []
    for run in runs:
        count = run.table("count", mode).iloc[row].to_numpy()
        active = run.table("active_fraction", mode).iloc[row].to_numpy()
        others = np.arange(len(count)) != _most(run.table("guess_fraction", mode), row)
        with np.errstate(invalid="ignore"):
            parts.append((active * count)[others].sum() / count[others].sum())
    alive = float(np.mean(parts))
    return f"Of the images of other classes, {share(alive)} {verb} a gradient." if np.isfinite(alive) else ""
