"""Hypothesis 5: Adam, which makes every step as long as any other, whatever the size of the gradient."""

import pandas as pd
from matplotlib.figure import Figure

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import by_batch, escaped, median_step

NEEDS = ("losses", "adam")
LOSSES = ("ce", "gce", "mae", "pz")


def runs(frames: Frames) -> dict[str, pd.DataFrame]:
    """The runs of ResNet-18 with each optimizer."""
    losses = frames["losses"]
    rows = {"SGD": losses[(losses["model"] == "resnet18") & losses["loss"].isin(LOSSES)], "Adam": frames["adam"]}
    return {name: by_batch(some) for name, some in rows.items()}


def optimizers(frames: Frames) -> str:
    """What becomes of each loss with each optimizer."""
    found, table = runs(frames), []
    for loss in LOSSES:
        for name, rows in found.items():
            part = rows[rows["loss"] == loss]
            start = f"{part['weight_start'].mean():.2g}"
            accuracy = interval(part["mean_accuracy"], ".3f")
            table.append([f"`{loss}`", start, name, rate(escaped(part)), median_step(part), accuracy])
    return markdown(["loss", "weight", "optimizer", "escaped", "median step", "accuracy"], table)


def figure(frames: Frames) -> Figure:
    """Accuracy after 300 steps of every run, by loss and optimizer."""
    drawn = Figure(figsize=(5.2, 2.6), layout="constrained")
    axes = drawn.subplots()
    for shift, colour, (name, rows) in zip((-0.12, 0.12), (COLOURS[0], COLOURS[6]), runs(frames).items(), strict=True):
        place = rows["loss"].map(LOSSES.index) + shift
        axes.plot(place, rows["mean_accuracy"], "o", color=colour, markersize=3.5, alpha=0.7, label=name)
    axes.axhline(0.1, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xticks=range(len(LOSSES)), xticklabels=LOSSES, ylabel="accuracy after 300 steps", ylim=(0, None))
    drawn.legend(loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found = {}
    for name, rows in runs(frames).items():
        for loss in LOSSES:
            part = rows[rows["loss"] == loss]
            found[f"{name.lower()}_{loss}"] = interval(part["mean_accuracy"], ".3f")
            found[f"{name.lower()}_{loss}_escaped"] = rate(escaped(part))
    return found
