"""Hypothesis 4: the data, all on `cnn`: colour, other images, fewer classes, and a long tail."""

import pandas as pd
from matplotlib.figure import Figure

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import by_batch, escaped, median_step

NEEDS = ("losses", "architectures", "color", "classes", "fashion_mnist", "long_tail")
LOSSES = ("ce", "pz")
RAREST = "truck"  # the last class of CIFAR-10, which has the fewest images of a long tail


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
        for loss in LOSSES:
            part = rows[rows["loss"] == loss]
            start = [f"{part[one].median():.2g}" for one in ("dominance_start", "drift_ratio_start", "weight_start")]
            accuracy = interval(part["mean_accuracy"], ".2f")
            table.append([title, f"`{loss}`", *start, rate(escaped(part)), median_step(part), accuracy])
    head = ["images", "loss", "dominance", "drift ratio", "weight", "escaped", "median step", "accuracy"]
    return markdown(head, table)


def long_tail(frames: Frames) -> str:
    """Runs on a long tail, by whether its rarest class is the favoured one."""
    rows = frames["long_tail"]
    table = []
    for loss in LOSSES:
        for is_rarest, title in ((True, "the rarest"), (False, "another")):
            part = rows[(rows["loss"] == loss) & ((rows["favoured_class"] == RAREST) == is_rarest)]
            if part.empty:
                continue
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
    found = {}
    for key, rows in zip(("gray", "color", "five", "two", "fashion", "tail"), runs(frames).values(), strict=True):
        for loss in LOSSES:
            found[f"data_{key}_{loss}"] = rate(escaped(rows[rows["loss"] == loss]))
    tail = frames["long_tail"]
    for loss in LOSSES:
        for name, is_rarest in (("rarest", True), ("other", False)):
            part = tail[(tail["loss"] == loss) & ((tail["favoured_class"] == RAREST) == is_rarest)]
            found[f"tail_{loss}_{name}"] = rate(escaped(part)) if len(part) else "none"
            found[f"tail_{loss}_{name}_early"] = interval(part["favoured_early"], ".2f") if len(part) else "none"
    return found
