"""Hypothesis 5: Adam, which makes every step as long as any other, whatever the size of the gradient."""

import pandas as pd
from matplotlib.figure import Figure

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import MODELS, by_batch, escaped

NEEDS = ("losses", "adam")
LOSSES = ("ce", "gce", "mae", "pz")
COLOUR = {"SGD, 0.01": COLOURS[0], "Adam, 0.001": COLOURS[6], "Adam, 0.0001": COLOURS[2]}


def runs(frames: Frames) -> pd.DataFrame:
    """The runs of both optimizers, of the networks that both have, with the `optimizer` and learning rate of each."""
    losses, adam = by_batch(frames["losses"]), by_batch(frames["adam"])
    sgd = losses[losses["loss"].isin(LOSSES) & losses["model"].isin(adam["model"].unique())]
    rates = [adam[adam["lr"] == lr].assign(optimizer=f"Adam, {lr:g}") for lr in adam["lr"].unique()]
    return pd.concat([sgd.assign(optimizer="SGD, 0.01"), *rates])


def optimizers(frames: Frames) -> str:
    """What becomes of each network and loss with each optimizer."""
    rows, table = runs(frames), []
    for model in (name for name in MODELS if name in set(rows["model"])):
        for loss in LOSSES:
            of_both = rows[(rows["model"] == model) & (rows["loss"] == loss)]
            row = [MODELS[model], f"`{loss}`", f"{of_both['weight_start'].mean():.2g}"]
            for name in COLOUR:
                part = of_both[of_both["optimizer"] == name]
                row += [rate(escaped(part)), interval(part["mean_accuracy"], ".2f")] if len(part) else ["", ""]
            table.append(row)
    head = ["network", "loss", "weight"]
    for name in COLOUR:
        head += [f"{name}: escaped", "accuracy"]
    return markdown(head, table)


def figure(frames: Frames) -> Figure:
    """Accuracy after 300 steps of every run, by loss and optimizer: a panel a network."""
    rows = runs(frames)
    models = [name for name in MODELS if name in set(rows["model"])]
    drawn = Figure(figsize=(7.2, 2.6), layout="constrained")
    panels = drawn.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for shift, (name, colour) in zip((-0.2, 0, 0.2), COLOUR.items(), strict=True):
            part = rows[(rows["model"] == model) & (rows["optimizer"] == name)]
            place = [LOSSES.index(loss) + shift for loss in part["loss"]]
            axes.plot(place, part["mean_accuracy"], "o", color=colour, markersize=3.5, alpha=0.7, label=name)
        axes.axhline(0.1, color="0.8", linewidth=0.6, zorder=0)
        axes.set(title=MODELS[model].strip("`"), xticks=range(len(LOSSES)), xticklabels=LOSSES)
    panels[0].set(ylabel="accuracy after 300 steps", ylim=(0, None))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found: dict[str, str] = {}
    for (name, model, loss), part in runs(frames).groupby(["optimizer", "model", "loss"]):
        key = f"{name}_{model}_{loss}".lower().replace(", 0.", "_")
        found |= {key: interval(part["mean_accuracy"], ".2f"), f"{key}_escaped": rate(escaped(part))}
    return found
