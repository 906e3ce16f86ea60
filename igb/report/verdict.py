"""The answer in words: did each setting leave its initial guessing bias, when, and what its gradient says."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from igb.report.landscape import DEAD, WRONG, curves_of
from igb.report.metrics import (
    Array,
    Censored,
    equal_outputs,
    escape_step,
    favoured_order,
    grouped,
    median,
    most_guessed,
)
from igb.report.prediction import predictions
from igb.report.runs import Run
from igb.report.settings import FEWEST, Panel, mean_and_bounds

MOST_NAMED = 5  # settings in one sentence
NO_CLASS = "No class is favoured: the outputs at initialisation are equal."


def answer(panels: Sequence[Panel], threshold: float) -> list[tuple[str, str]]:
    """The title of each panel, and at most three sentences about it: what became of its guess, why, how accurate."""
    return [
        (
            _title(panel),
            _of_one(panel.runs[0], panel.mode, threshold) if len(panel.runs) == 1 else _of_several(panel, threshold),
        )
        for panel in panels
    ]


def overview(panels: Sequence[Panel], threshold: float) -> str:
    """How many runs of all settings escaped, and in which some did not; empty of one setting, and without training."""
    panels = [panel for panel in panels if panel.mode == panels[0].mode]
    found = {_title(panel): [_has_escaped(run, panel.mode, threshold) for run in panel.runs] for panel in panels}
    every = [one for of_setting in found.values() for one in of_setting if one is not None]
    if len(panels) < 2 or not every:
        return ""
    trapped = [f"{title} ({some.count(False)} of {len(some)})" for title, some in found.items() if False in some]
    more = f" and {len(trapped) - MOST_NAMED} more" if len(trapped) > MOST_NAMED else ""
    which = f"to the end no class takes {share(threshold)} or more of the guesses"
    text = f"{sum(every)} of {len(every)} runs escaped ({which})"
    return f"{text}. Those that did not: {', '.join(trapped[:MOST_NAMED])}{more}." if trapped else f"{text}."


def _has_escaped(run: Run, mode: str, threshold: float) -> bool | None:
    """Whether a run escaped; None before it has been trained."""
    guesses = run.table("guess_fraction", mode)
    return isinstance(escape_step(guesses, threshold), int) if len(guesses) > 1 else None


def of_wrong_labels(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """The title of each panel of runs on wrong labels, and what became of those labels."""
    found = []
    for panel in panels:
        if panel.has_wrong_labels:
            memorised, recovered = (
                _interval([run.overall(f"wrong.{column}", panel.mode).iloc[-1] for run in panel.runs])
                for column in ("predicted_given", "predicted_true")
            )
            text = f"Of the training images with wrong labels, {memorised} are predicted as labelled at the end"
            found.append((_title(panel), f"{text}, {recovered} as what they are."))
    return found


def of_theory(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """The title of each panel that the mean-field theory covers, and what it expects."""
    return [
        (
            _title(panel),
            f"Expected are a drift ratio of {found.drift_ratio:.3g} at initialisation, and with it "
            f"{share(found.dominance)} of all guesses for the most guessed class, as a mean over networks.",
        )
        for panel in panels
        for found in predictions([panel])
    ]


def _title(panel: Panel) -> str:
    return panel.title.replace("\n", " ")


def _sentence(*clauses: str) -> str:
    """One sentence of those clauses that say something; none if all are empty."""
    text = "; ".join(filter(None, clauses))
    return f"{text[0].upper()}{text[1:]}." if text else ""


def left_step(guesses: pd.DataFrame, favoured: int, threshold: float) -> int | None:
    """The first probe at which the favoured class is under the threshold; None if there is none."""
    under = np.flatnonzero(guesses[favoured] < threshold)
    return int(guesses.index[under[0]]) if under.size else None


def when(step: int | float, steps_per_epoch: int) -> str:
    """A number of steps in words: batches in epoch one, epochs later."""
    if step < steps_per_epoch or (step % steps_per_epoch and step < 2 * steps_per_epoch):
        return f"{grouped(step)} batch{'es' if step != 1 else ''}"
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
    dominance = guesses.max(axis=1, skipna=False)
    if equal_outputs(run.table("mean_probability", mode)):
        return _of_equal_outputs(run, mode, threshold)
    if order is None:
        return "Its outputs at initialisation are not finite."
    names, first = run.class_names, order[0]
    start, end = dominance.iloc[0], dominance.iloc[-1]
    if len(guesses) == 1:
        return f"At initialisation its most guessed class, {names[first]}, takes {share(start)} of all guesses."

    def at(step: int) -> str:
        return when(step, run.steps_per_epoch)

    last = int(guesses.index[-1])
    left, escape = left_step(guesses, first, threshold), escape_step(guesses, threshold)
    later = _dominant_classes(guesses, left or 0, threshold)
    others = " and ".join(filter(None, [", ".join(names[k] for k in later[:-1]), *(names[k] for k in later[-1:])]))
    outcome = []
    if start < threshold:
        outcome.append(
            f"it had no dominant class at initialisation (the most guessed, {names[first]}, took {share(start)})"
        )
        if others and isinstance(escape, int):
            outcome.append(f"later {others} had {share(threshold)} or more for a while, until {at(escape)} were done")
    elif left is None and np.isfinite(end):
        still = (
            f"one class, {names[first]}, still takes {share(guesses[first].iloc[-1])} of all guesses after {at(last)}"
        )
        most = int(guesses.iloc[-1].idxmax())
        outcome.append(still + (f", and {names[most]} takes {share(end)}" if most != first else ""))
    elif left is None:
        outcome.append(
            f"it did not leave its initial class, {names[first]} ({share(start)} of all guesses at initialisation)"
        )
    else:
        initial = f"its initial class, {names[first]} ({share(start)} of all guesses at initialisation)"
        outcome.append(f"it left {initial}, after {at(left)}")
        if isinstance(escape, int) and escape > left and others:
            outcome.append(f"until {at(escape)} were done, {others} took {share(threshold)} or more at times")
    why = [_active_share([run], mode, 0)]
    if not np.isfinite(end):
        outcome.append(f"its outputs after {at(last)} are not finite")
    elif isinstance(escape, Censored) and (left is not None or start < threshold):
        number = int(guesses.iloc[-1].idxmax())
        back = "it came back to it" if number == first and start >= threshold else "one class dominates"
        outcome.append(f"{back}: {names[number]} takes {share(end)} of all guesses after {at(last)}")
    if np.isfinite(end) and isinstance(escape, Censored):
        why = [_active_share([run], mode, -1), _no_pull(run)]
    return " ".join(filter(None, (_sentence(*outcome), _sentence(*why), _ended(run, mode))))


def _of_equal_outputs(run: Run, mode: str, threshold: float) -> str:
    guesses = run.table("guess_fraction", mode)
    sentences, end, last = [NO_CLASS], float(guesses.iloc[-1].max(skipna=False)), int(guesses.index[-1])
    after = f"after {when(last, run.steps_per_epoch)}"
    if not np.isfinite(end):
        sentences.append(_sentence(f"its outputs {after} are not finite"))
    elif last > 0 and end >= threshold and (most := most_guessed(guesses.iloc[-1])) is not None:
        found = f"{after} one class, {run.class_names[most]}, takes {share(end)} of all guesses"
        sentences.append(_sentence(found, _active_share([run], mode, -1), _no_pull(run)))
    return " ".join(filter(None, [*sentences, _ended(run, mode)]))


def _ended(run: Run, mode: str) -> str:
    """How accurate a run is at its last probe, if that came after training."""
    table = run.table("accuracy", mode)
    accuracy, last = table.iloc[-1].mean(skipna=False), int(table.index[-1])
    if not np.isfinite(accuracy) or last == 0:
        return ""
    return f"Mean accuracy after {when(last, run.steps_per_epoch)}: {share(accuracy)}."


def _of_several(panel: Panel, threshold: float) -> str:
    runs, mode = panel.runs, panel.mode
    tables = [run.table("guess_fraction", mode) for run in runs]
    start = [float(table.iloc[0].max(skipna=False)) for table in tables]
    end = [float(table.iloc[-1].max(skipna=False)) for table in tables]
    escapes = [escape_step(table, threshold) for table in tables]
    every, spe = len(runs), panel.steps_per_epoch
    orders = [favoured_order(run.table("guess_fraction", mode), run.table("mean_probability", mode)) for run in runs]
    favoured = [None if order is None else order[0] for order in orders]
    equal = [equal_outputs(run.table("mean_probability", mode)) for run in runs]
    biased = [number for number in range(every) if start[number] >= threshold and not equal[number]]
    where = "" if len(biased) == every else f", {share(threshold)} or more in {len(biased)} of {every} runs"
    these = "runs" if len(biased) == every else "of these runs"
    finite = [value for value in start if np.isfinite(value)]
    if not finite:
        return "The outputs at initialisation are not finite."
    initial = f"At initialisation the most guessed class takes {_interval(finite)} of all guesses{where}."
    if all(equal):
        initial = NO_CLASS
    if max(map(len, tables)) == 1:
        return initial
    left = [
        step for number in biased if (step := left_step(tables[number], favoured[number] or 0, threshold)) is not None
    ]
    outcome = []
    if biased:
        which = f"{len(left)} of {len(biased)}" if left else f"none of {len(biased)}"
        outcome.append(f"{which} {these} left that class{f', {_after(left, spe)}' if left else ''}")
    escaped = [event_time for number in biased if isinstance(event_time := escapes[number], int)]
    if left and not escaped:
        outcome.append(f"none stays under {share(threshold)} in every class")
    elif sorted(escaped) != sorted(left):
        which = f"{len(escaped)} of {len(biased)}"
        outcome.append(f"{which} stay under {share(threshold)} in every class {_after(escaped, spe)}")
    why = [_active_share(runs, mode, 0) if not all(equal) else ""]
    trapped = [number for number in range(every) if end[number] >= threshold]
    if trapped:
        at_end = _interval([end[number] for number in trapped])
        same = sum(favoured[number] == most_guessed(tables[number].iloc[-1]) for number in trapped)
        which = "" if all(equal) else f", in {same} of them the one favoured at the start"
        outcome.append(f"at the end one class takes {at_end} of all guesses in {len(trapped)} of {every} runs{which}")
        alive = _active_share([runs[number] for number in trapped], mode, -1)
        why = [f"at the end, {alive}" if alive and len(trapped) == every else alive and f"in those, {alive}"]
        why.append(_no_pull(runs[trapped[0]]))
    if broken := sum(not np.isfinite(value) for value in end):
        outcome.append(f"in {broken} of {every} runs the outputs at the end are not finite")
    accuracy = _interval([run.table("accuracy", mode).iloc[-1].mean(skipna=False) for run in runs])
    why.append(f"mean accuracy at the end: {accuracy}" if accuracy else "")
    return " ".join(filter(None, (initial, _sentence(*outcome), _sentence(*why))))


def _dominant_classes(guesses: pd.DataFrame, since: int, threshold: float) -> list[int]:
    """The classes that reach the threshold at some probe from step `since` on, in the order in which they first do."""
    dominance = guesses.max(axis=1, skipna=False)
    taken = guesses[(dominance >= threshold) & (guesses.index >= since)]
    return list(dict.fromkeys(int(k) for k in taken.idxmax(axis=1))) if len(taken) else []


def _after(steps: Sequence[int], steps_per_epoch: int) -> str:
    """When runs escaped: the median and the range."""
    steps = sorted(steps)
    text = f"after {when(steps[0], steps_per_epoch)}"
    if steps[0] == steps[-1]:
        return text
    middle = median(steps)
    assert isinstance(middle, int | float)
    first, last = when(steps[0], steps_per_epoch), when(steps[-1], steps_per_epoch)
    return f"after a median of {when(middle, steps_per_epoch)} ({first} to {last})"


def _interval(values: Sequence[float]) -> str:
    """A mean of fractions over runs, with its 95 % interval, or with their range if there are too few."""
    column: Array = np.array(values, dtype=float)[:, None]
    mean, low, high = (
        float(item.item()) for item in mean_and_bounds(column, np.ones(column.shape, dtype=bool), bounded=True)
    )
    if not np.isfinite(mean):
        return ""
    few = len(values) < FEWEST
    low, high = (min(values), max(values)) if few else (low, high)
    if high - low < 0.001:
        return share(mean)
    return f"{share(mean)} ({'range' if few else '95 % interval'} {_per_cent(low)} to {_per_cent(high)} %)"


def _per_cent(fraction: float) -> str:
    return f"{100 * fraction:.3g}"


def _active_share(runs: Sequence[Run], mode: str, row: int) -> str:
    """The share of images outside the most guessed class that have a gradient, as a mean over runs, in words."""
    parts = []
    for run in runs:
        count = run.table("count", mode).iloc[row].to_numpy()
        active = run.table("active_fraction", mode).iloc[row].to_numpy()
        others = np.arange(len(count)) != most_guessed(run.table("guess_fraction", mode).iloc[row])
        with np.errstate(invalid="ignore"):
            parts.append((active * count)[others].sum() / count[others].sum())
    alive = float(np.mean(parts))
    have = "had a gradient at initialisation" if row == 0 else "have a gradient"
    return f"of the images of other classes, {share(alive)} {have}" if np.isfinite(alive) else ""


def _no_pull(run: Run) -> str:
    """Where the loss at a run's last probe does not pull the true class up, in words."""
    last_step = min(run.metrics["step"].iloc[-1], run.info["total_steps"] - 1)  # a probe uses the next step's loss
    curves = curves_of(run, last_step / run.steps_per_epoch)
    does = {WRONG: "pushes the true class further down", DEAD: "has no gradient"}
    clauses = []
    for kind, start, end in curves[-1].regions if curves else []:
        where = "at most" if start == curves[-1].p[0] else f"from {start:.2g} to"
        clauses.append(f"where p_y is {where} {end:.2g} the loss {does[kind]}")
    return ", and ".join(clauses)
