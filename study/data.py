"""Hypothesis 4: the data, all on `cnn`: colour, other images, fewer classes, and a long tail."""

import pandas as pd
from matplotlib.figure import Figure

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import by_batch, escaped, median_step

NEEDS = ("losses", "architectures", "color", "classes", "fashion_mnist", "long_tail")
LOSSES = ("ce", "pz")
# The classes of CIFAR-10 that have the fewest and the most images of a long tail.
TAIL = {"truck": "the rarest", "airplane": "the commonest"}


def runs(frames: Frames) -> dict[str, pd.DataFrame]:
    """The runs on each kind of data."""
    losses, networks = frames["losses"], frames["architectures"]
    gray = [
        losses[(losses["model"] == "cnn") & (losses["loss"] == "ce")],
        networks[(networks["model"] == "cnn") & (networks["cutoff"] == 0.1)].assign(loss="pz"),
    ]
    classes = frames["classes"]
    return {
        "CIFAR-10, gray": pd.concat([by_batch(part) for part in gray]),
        "CIFAR-10, colour": frames["color"],
        "CIFAR-10, gray, 5 classes": classes[classes["modulo"] == 5],
        "CIFAR-10, gray, 2 classes": classes[classes["modulo"] == 2],
        "Fashion-MNIST": frames["fashion_mnist"],
        "CIFAR-10, gray, long tail": frames["long_tail"],
    }


def kinds(frames: Frames) -> str:
    """What becomes of the network under cross-entropy and Piecewise-zero loss on each."""
    table = []
    for title, rows in runs(frames).items():
        row = [title, *(f"{rows[one].median():.2g}" for one in ("dominance_start", "drift_ratio_start"))]
        for loss in LOSSES:
            part = rows[rows["loss"] == loss]
            row += [rate(escaped(part)), median_step(part), interval(part["mean_accuracy"], ".2f")]
        table.append(row)
    head = ["images", "dominance", "drift ratio"]
    for loss in LOSSES:
        head += [f"`{loss}`: escaped", "median step", "accuracy"]
    return markdown(head, table)


def long_tail(frames: Frames) -> str:
    """Runs on a long tail, by how common the favoured class is in it."""
    table = []
    for loss in LOSSES:
        for title, part in _by_favoured(frames, loss).items():
            shares = [interval(part[name], ".2f") for name in ("favoured_early", "favoured_end")]
            outcome = [rate(escaped(part)), median_step(part), interval(part["mean_accuracy"], ".2f")]
            table.append([f"`{loss}`", title, str(len(part)), *shares, *outcome])
    head = ["loss", "favoured class", "runs", "its guesses at 100", "at 300", "escaped", "median step", "accuracy"]
    return markdown(head, table)


def figure(frames: Frames) -> Figure:
    """Dominance at initialisation, next to step 100 and at the end, of every run: a panel a kind of data."""
    drawn = Figure(figsize=(7.2, 3.6), layout="constrained")
    panels = drawn.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, (title, rows) in zip(panels, runs(frames).items(), strict=True):
        for colour, loss in zip((COLOURS[0], COLOURS[6]), LOSSES, strict=True):
            part = rows[rows["loss"] == loss]
            curves = part[["dominance_start", "dominance_early", "dominance_end"]].to_numpy().T
            axes.plot(curves, color=colour, linewidth=0.6, alpha=0.6)
            axes.plot([], [], color=colour, label=loss)
        axes.set(title=title, xticks=range(3), xticklabels=["0", "100", "300"], ylim=(0, 1.03))
    for axes in drawn.axes[3:]:
        axes.set_xlabel("step")
    for axes in drawn.axes[::3]:
        axes.set_ylabel("dominance")
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found: dict[str, str] = {}
    for key, rows in zip(("gray", "color", "five", "two", "fashion", "tail"), runs(frames).values(), strict=True):
        for loss in LOSSES:
            found[f"data_{key}_{loss}"] = rate(escaped(rows[rows["loss"] == loss]))
    for loss in LOSSES:
        for title, part in _by_favoured(frames, loss).items():
            key = f"tail_{loss}_{title.split()[-1]}"
            found |= {key: rate(escaped(part)), f"{key}_early": interval(part["favoured_early"], ".2f")}
            found[f"{key}_won"] = rate(part["dominant_class"] == part["favoured_class"])
    return found


def _by_favoured(frames: Frames, loss: str) -> dict[str, pd.DataFrame]:
    """The runs of a loss on a long tail by what the class that they favour is in it."""
    rows = frames["long_tail"]
    rows = rows[rows["loss"] == loss]
    kind = rows["favoured_class"].map(lambda name: TAIL.get(name, "another"))
    return {title: rows[kind == title] for title in (*TAIL.values(), "another") if (kind == title).any()}
