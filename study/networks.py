"""Hypothesis 2: in which networks Piecewise-zero loss traps, and what of them at initialisation tells."""

import itertools
import math

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from igb._plots import COLOURS, log_axis
from reproduction.common import Frames, interval, markdown, rate
from study.dial import centred
from study.runs import MODELS, by_batch, escaped

NEEDS = ("cutoffs", "architectures", "norms", "rates", "center", "features")
CUTOFFS = (0.1, 0.2)
RATE = 0.01  # of the stages that do not sweep it
EDGES = (1.0, 5.0, 20.0)  # of bands of the common step
FOUND_ON = ("mlp", "cnn")  # the networks on which the common step was found to matter; others test it
PREDICTORS = {"common_step": "common step", "drift_ratio_start": "drift ratio", "dominance_start": "dominance"}


def runs(frames: Frames) -> pd.DataFrame:
    """Runs under Piecewise-zero loss by `network` and `lr`, with the `common_step` of their network untrained.

    ResNet-18 with batch norm is in `cutoffs`.
    """
    cutoffs, architectures = frames["cutoffs"], frames["architectures"]
    pz = cutoffs[(cutoffs["loss"] == "pz") & cutoffs["cutoff"].isin(CUTOFFS)]
    parts = [
        architectures.assign(network=architectures["model"], lr=RATE),
        pz.assign(network="resnet18", lr=RATE),
        frames["norms"].assign(network=frames["norms"]["norm"], lr=RATE),
        frames["rates"].assign(network=frames["rates"]["model"], cutoff=CUTOFFS[0]),
        *([frames["vit"].assign(network="vit", lr=RATE)] if "vit" in frames else []),
    ]
    rows = pd.concat([by_batch(part) for part in parts]).merge(frames["features"], on=["network", "seed"])
    order = rows["network"].map(list(MODELS).index)
    rows = rows.assign(common_step=rows["lr"] * rows["common"], order=order)
    return rows.sort_values(["order", "cutoff", "lr"], kind="stable")


def trapped(frames: Frames) -> str:
    """For each network and cutoff, how many leave, and what they were at the start."""
    rows = runs(frames)
    table = []
    for (network, cutoff), part in rows[rows["lr"] == RATE].groupby(["network", "cutoff"], sort=False):
        table.append([MODELS[str(network)], f"{cutoff:g}", *_row(part)])
    head = ["network", "cutoff", *PREDICTORS.values(), "escaped", "accuracy"]
    return markdown(head, table)


def rates(frames: Frames) -> str:
    """The same over learning rates."""
    rows = runs(frames)
    rows = rows[rows["network"].isin(FOUND_ON) & (rows["cutoff"] == CUTOFFS[0])]
    table = [
        [MODELS[str(network)], f"{lr:g}", *_row(part)]
        for (network, lr), part in rows.groupby(["network", "lr"], sort=False)
    ]
    return markdown(["network", "learning rate", *PREDICTORS.values(), "escaped", "accuracy"], table)


def _row(part: pd.DataFrame) -> list[str]:
    start = [f"{part[one].median():.2g}" for one in PREDICTORS]
    return [*start, rate(escaped(part)), interval(part["mean_accuracy"], ".3f")]


def told(rows: pd.DataFrame, predictor: str) -> float:
    """How often a run that is trapped had the larger value at the start than one that is not; 1/2 says nothing."""
    out = escaped(rows)
    trapped_values, others = rows[~out][predictor], rows[out][predictor]
    return float(mannwhitneyu(trapped_values, others).statistic) / (len(trapped_values) * len(others))


def predictors(frames: Frames) -> str:
    """How well each predictor tells the trapped runs from the others, at each cutoff."""
    rows = runs(frames)
    some = {
        "MLP and `cnn`, on which it was found": rows["network"].isin(FOUND_ON),
        "other networks": ~rows["network"].isin(FOUND_ON),
    }
    table = []
    for cutoff in CUTOFFS:
        for title, of in some.items():
            part = rows[of & (rows["cutoff"] == cutoff)]
            out = escaped(part)
            if out.any() and not out.all():
                values = [f"{told(part, predictor):.2f}" for predictor in PREDICTORS]
                table.append([title, f"{cutoff:g}", f"{(~out).sum()} of {len(part)}", *values])
    return markdown(["runs", "cutoff", "trapped", *PREDICTORS.values()], table)


def bands(frames: Frames) -> str:
    """How many runs at the smaller cutoff leave, by their common step."""
    rows = runs(frames)
    rows = rows[rows["cutoff"] == CUTOFFS[0]]
    table = []
    for low, high in itertools.pairwise((0.0, *EDGES, math.inf)):
        part = rows[rows["common_step"].between(low, high, inclusive="left")]
        if len(part):
            title = f"{low:g} to {high:g}" if high < math.inf else f"{low:g} or more"
            counts = part["network"].value_counts(sort=False)
            networks = ", ".join(f"{MODELS[str(name)]} ({count})" for name, count in counts.items())
            table.append([title, rate(escaped(part)), interval(part["mean_accuracy"], ".2f"), networks])
    return markdown(["common step", "escaped within 300 steps", "accuracy", "networks (runs)"], table)


def figure(frames: Frames) -> Figure:
    """Dominance at the last probe over the common step at initialisation: a panel a cutoff, a point a run."""
    rows = runs(frames)
    drawn = Figure(figsize=(7.2, 3.0), layout="constrained")
    panels = drawn.subplots(1, len(CUTOFFS), sharex=True, sharey=True)
    for axes, cutoff in zip(panels, CUTOFFS, strict=True):
        for number, (network, title) in enumerate(MODELS.items()):
            part = rows[(rows["cutoff"] == cutoff) & (rows["network"] == network)]
            if network not in set(rows["network"]):
                continue
            axes.plot(
                part["common_step"], part["dominance_end"], marker="os^vDPX*"[number], linestyle="",
                color=COLOURS[number], markersize=4, alpha=0.8, label=title.strip("`"),
            )  # fmt: skip
        log_axis(axes, "x")
        axes.axhline(0.5, color="0.8", linewidth=0.6, zorder=0)
        axes.set(title=f"cutoff {cutoff:g}", xlabel="common step at initialisation", ylim=(0, 1.03))
    panels[0].set_ylabel("dominance after 300 steps")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    rows = runs(frames)
    found = {}
    for (network, lr), part in rows[rows["cutoff"] == CUTOFFS[0]].groupby(["network", "lr"]):
        found[f"rate_{network}_{lr:g}".replace(".", "")] = rate(escaped(part))
    for network, part in rows[rows["lr"] == RATE].groupby("network"):
        found |= {f"step_{network}": f"{part['common_step'].median():.2g}"}
    for network, part in frames["features"].groupby("network"):
        found[f"common_{network}"] = f"{part['common'].mean():,.0f}"
    return found | centred(frames)
