"""Hypothesis 6: which losses memorise wrong labels, and whether the favoured classes are memorised first."""

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import escaped

NEEDS = ("noise", "noise_warmup", "noise_classes", "noise_warmup_classes")
TITLES = {"ce": "ce", "gce": "gce", "phuber": "phuber", "pz_smooth": "pz_smooth", "pz": "pz after an epoch of ce"}
SHOWN = [COLOURS[place] for place in (0, 2, 4, 5, 7)]
PANELS = {"accuracy": "accuracy on test images", "memorised": "wrong labels memorised"}


def runs(frames: Frames) -> pd.DataFrame:
    """The runs of all losses."""
    return pd.concat([frames["noise"], frames["noise_warmup"]])


def classes(frames: Frames) -> pd.DataFrame:
    """Their classes over the epochs."""
    return pd.concat([frames["noise_classes"], frames["noise_warmup_classes"]])


def outcomes(frames: Frames) -> pd.DataFrame:
    """A row for each run: whether it `left` its guess, its best accuracy on test images, and what it came to."""
    of_epochs = classes(frames).groupby(["loss", "seed", "epoch"])["accuracy"].mean()
    best = of_epochs.groupby(["loss", "seed"]).max().rename("best").reset_index()
    rows = runs(frames)
    return rows.assign(left=escaped(rows)).merge(best, on=["loss", "seed"])


def memorised(frames: Frames) -> str:
    """What each loss makes of wrong labels and of test images by its last epoch, in runs that left and in others."""
    rows = outcomes(frames)
    table = []
    for loss, title in TITLES.items():
        part = rows[rows["loss"] == loss]
        for left, name in ((True, "left"), (False, "trapped")):
            if len(some := part[part["left"] == left]):
                shares = [interval(some[one]) for one in ("memorised", "recovered", "best", "mean_accuracy")]
                table.append([f"`{loss}`{title[len(loss) :]}", f"{len(some)} of {len(part)} {name}", *shares])
    return markdown(["loss", "runs", "memorised", "recovered", "best accuracy", "accuracy at the end"], table)


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
    """Accuracy on test images and what is memorised over the epochs: a line a run, in the colour of its loss."""
    of_classes = classes(frames)
    drawn = Figure(figsize=(7.2, 2.8), layout="constrained")
    panels = drawn.subplots(1, len(PANELS))
    for axes, (quantity, title) in zip(panels, PANELS.items(), strict=True):
        for colour, (loss, name) in zip(SHOWN, TITLES.items(), strict=True):
            lines = of_classes[of_classes["loss"] == loss].groupby(["epoch", "seed"])[quantity].mean().unstack()
            labels = [name, *[None] * (len(lines.columns) - 1)]
            axes.plot(lines.index, lines, color=colour, linewidth=1.0, alpha=0.8, label=labels)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch", title=title, ylim=(0, None))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    rows, order = outcomes(frames), ranks(frames)
    order = order[order["epoch"] == order["epoch"].max()]
    found: dict[str, str] = {}
    for loss in TITLES:
        part = rows[rows["loss"] == loss]
        found[f"noise_{loss}_left"] = rate(part["left"])
        for name in ("memorised", "recovered", "best", "mean_accuracy"):
            found[f"noise_{loss}_{name}"] = interval(part[part["left"]][name])
        found[f"noise_{loss}_rank_end"] = interval(order[order["loss"] == loss]["rank"])
    return found
