"""Hypothesis 7: what lets networks out that Piecewise-zero loss traps."""

import pandas as pd
from matplotlib.figure import Figure

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, mean_and_half, rate
from study.runs import MODELS, by_batch, escaped, median_step

NEEDS = ("remedy_none", "remedy_ce")
TITLES = {
    "remedy_none": "nothing",
    "remedy_cutoff_0.1": "cutoff 0.1",
    "remedy_cutoff_0.05": "cutoff 0.05",
    "remedy_calibrate": "calibrated running statistics",
    "remedy_center": "centred head",
    "remedy_smooth": "smooth cutoff",
    "remedy_ramp": "ramp in epoch 1",
    "remedy_rate": "learning rate rises in epoch 1",
    "remedy_low_rate": "learning rate 0.001",
    "remedy_warmup": "cross-entropy in epoch 1",
    "remedy_ce": "cross-entropy throughout",
}


def runs(frames: Frames) -> pd.DataFrame:
    """The runs of all remedies that are there, with the `remedy` of each."""
    parts = []
    for name in TITLES:
        stage, _, cutoff = name.partition("_0")
        if stage in frames:
            rows = by_batch(frames[stage]).assign(remedy=name)
            parts.append(rows[rows["cutoff"] == float(f"0{cutoff}")] if cutoff else rows)
    return pd.concat(parts)


def ranked(frames: Frames) -> str:
    """What becomes of each network with each remedy, from the least accuracy to the most."""
    rows = runs(frames)
    models = list(rows["model"].unique())
    table = []
    for remedy in rows.groupby("remedy")["mean_accuracy"].mean().sort_values().index:
        row = [TITLES[remedy]]
        for model in models:
            part = rows[(rows["remedy"] == remedy) & (rows["model"] == model)]
            if part.empty:
                row += [""] * 3
            else:
                row += [rate(escaped(part)), median_step(part), interval(part["mean_accuracy"], ".2f")]
        table.append(row)
    head = ["remedy"]
    for model in models:
        head += [f"{MODELS[model]}: escaped", "median step", "accuracy"]
    return markdown(head, table)


def figure(frames: Frames) -> Figure:
    """Accuracy after three epochs of every run, by remedy: a panel a network."""
    rows = runs(frames)
    models = list(rows["model"].unique())
    drawn = Figure(figsize=(7.2, 2.8), layout="constrained")
    panels = drawn.subplots(1, len(models), sharey=True, squeeze=False)[0]
    names = [name for name in TITLES if name in set(rows["remedy"])]
    for axes, model in zip(panels, models, strict=True):
        for place, name in enumerate(names):
            part = rows[(rows["model"] == model) & (rows["remedy"] == name)]
            if len(part):
                axes.plot(part["mean_accuracy"], [place] * len(part), "o", color=COLOURS[1], markersize=3, alpha=0.7)
                average, half = mean_and_half(part["mean_accuracy"])
                axes.errorbar(average, place, xerr=half, fmt="|", color=COLOURS[0], capsize=2, linewidth=1)
        axes.axvline(0.1, color="0.8", linewidth=0.6, zorder=0)
        axes.set(title=MODELS[model].strip("`"), xlabel="accuracy after 3 epochs", xlim=(0, None))
        axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found: dict[str, str] = {}
    for (model, name), part in runs(frames).groupby(["model", "remedy"]):
        key = f"{name}_{model}".replace("0.", "")
        found |= {f"{key}_escaped": rate(escaped(part)), f"{key}_accuracy": interval(part["mean_accuracy"], ".2f")}
    return found
