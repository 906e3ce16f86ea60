"""Hypothesis 6: which losses memorise wrong labels, and whether the favoured classes are memorised first."""

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, mean_and_half, rate
from study.runs import escaped

NEEDS = ("noise", "noise_warmup", "noise_classes", "noise_warmup_classes")
TITLES = {"ce": "ce", "gce": "gce", "phuber": "phuber", "pz_smooth": "pz_smooth", "pz": "pz after an epoch of ce"}
PANELS = {"accuracy": "accuracy on test images", "memorised": "wrong labels memorised"}


def runs(frames: Frames) -> pd.DataFrame:
    """The runs of all losses."""
    return pd.concat([frames["noise"], frames["noise_warmup"]])


def classes(frames: Frames) -> pd.DataFrame:
    """Their classes over the epochs."""
    return pd.concat([frames["noise_classes"], frames["noise_warmup_classes"]])


def memorised(frames: Frames) -> str:
    """What each loss makes of wrong labels by its last epoch, and of test images."""
    rows, of_classes = runs(frames), classes(frames)
    table = []
    for loss, title in TITLES.items():
        part = rows[rows["loss"] == loss]
        best = (
            of_classes[of_classes["loss"] == loss].groupby(["seed", "epoch"])["accuracy"].mean().groupby("seed").max()
        )
        shares = [
            interval(values, ".2f") for values in (part["memorised"], part["recovered"], best, part["mean_accuracy"])
        ]
        table.append([f"`{loss}`{title[len(loss) :]}", *shares, rate(escaped(part))])
    return markdown(["loss", "memorised", "recovered", "best accuracy", "at the end", "escaped"], table)


def ranks(frames: Frames) -> pd.DataFrame:
    """For each epoch of a run that escaped the rank correlation, over classes, of guesses at the start and memorised.

    In a run that is trapped what is memorised are the wrong labels of the one class that is guessed.
    """
    found = []
    rows = runs(frames)
    left = rows[escaped(rows)][["loss", "seed"]]
    for (loss, seed), part in classes(frames).merge(left).groupby(["loss", "seed"]):
        start = part[part["epoch"] == 0].set_index("class")["guess_fraction"]
        for epoch, some in part[part["epoch"] > 0].groupby("epoch"):
            if some["memorised"].nunique() > 1:
                rank = spearmanr(start.loc[some["class"]], some["memorised"]).statistic
                found.append({"loss": loss, "seed": seed, "epoch": epoch, "rank": rank})
    return pd.DataFrame(found)


def first(frames: Frames) -> str:
    """That correlation after one epoch, after three and at the end; and of the classes that are guessed most then."""
    found, table = ranks(frames), []
    for loss, title in TITLES.items():
        part = found[found["loss"] == loss]
        epochs = [1, 3, int(found["epoch"].max())]
        table.append(
            [f"`{loss}`{title[len(loss) :]}", *(interval(part[part["epoch"] == one]["rank"], ".2f") for one in epochs)]
        )
    return markdown(["loss", "after epoch 1", "after epoch 3", "at the end"], table)


def figure(frames: Frames) -> Figure:
    """Accuracy on test images and what is memorised over the epochs: a line a loss, the mean over seeds."""
    of_classes = classes(frames)
    drawn = Figure(figsize=(7.2, 2.6), layout="constrained")
    panels = drawn.subplots(1, len(PANELS))
    for axes, (quantity, title) in zip(panels, PANELS.items(), strict=True):
        for colour, (loss, name) in zip(COLOURS[::2], TITLES.items(), strict=True):
            part = of_classes[of_classes["loss"] == loss].groupby(["epoch", "seed"])[quantity].mean().unstack()
            average, half = zip(*(mean_and_half(row) for _, row in part.iterrows()), strict=True)
            low, high = ([a + sign * h for a, h in zip(average, half, strict=True)] for sign in (-1, 1))
            axes.plot(part.index, average, color=colour, linewidth=1.2, label=name)
            axes.fill_between(part.index, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", title=title, ylim=(0, None))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    rows = runs(frames)
    found: dict[str, str] = {}
    for loss in TITLES:
        part = rows[rows["loss"] == loss]
        found |= {
            f"noise_{loss}_{name}": interval(part[name], ".2f") for name in ("memorised", "recovered", "mean_accuracy")
        }
    early = ranks(frames)
    for loss in TITLES:
        found[f"noise_{loss}_rank"] = interval(early[(early["loss"] == loss) & (early["epoch"] == 1)]["rank"], ".2f")
    return found
