"""Hypothesis 2: in which networks Piecewise-zero loss traps, and whether the drift ratio tells."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from igb._plots import COLOURS, log_axis
from reproduction.common import Frames, markdown
from study.runs import MODELS, by_batch, escaped, mean, rate

NEEDS = ("cutoffs", "architectures", "norms", "rates", "features")
CUTOFFS = (0.1, 0.2)
RATE = 0.01  # of the stages that do not sweep it
NORMS = {"none": "ResNet-18, no norm", "group": "ResNet-18, group norm"}


def runs(frames: Frames) -> pd.DataFrame:
    """Runs under Piecewise-zero loss, with the `network` they are of; ResNet-18 with batch norm is in `cutoffs`."""
    cutoffs, norms = frames["cutoffs"], frames["norms"]
    parts = [
        frames["architectures"].assign(network=frames["architectures"]["model"].map(MODELS)),
        cutoffs[(cutoffs["loss"] == "pz") & cutoffs["cutoff"].isin(CUTOFFS)].assign(network=MODELS["resnet18"]),
        norms.assign(network=norms["norm"].map(NORMS)),
    ]
    if "vit" in frames:
        parts.append(frames["vit"].assign(network=MODELS["vit"]))
    names = [*MODELS.values(), *NORMS.values()]
    rows = pd.concat([by_batch(part) for part in parts])
    return rows.sort_values("network", key=lambda column: column.map(names.index), kind="stable")


def trapped(frames: Frames) -> str:
    """For each network and cutoff, how many leave, and what they were at the start."""
    table = []
    for (network, cutoff), part in runs(frames).groupby(["network", "cutoff"], sort=False):
        start = [f"{part[one].median():.2g}" for one in ("drift_ratio_start", "dominance_start", "weight_start")]
        table.append([str(network), f"{cutoff:g}", *start, rate(escaped(part)), mean(part["mean_accuracy"])])
    head = ["network", "cutoff", "drift ratio", "dominance", "weight", "escaped", "accuracy"]
    return markdown(head, table)


def figure(frames: Frames) -> Figure:
    """Dominance at the last probe over the drift ratio at initialisation: a panel a cutoff, a point a run."""
    rows = runs(frames)
    drawn = Figure(figsize=(7.2, 2.9), layout="constrained")
    panels = drawn.subplots(1, len(CUTOFFS), sharey=True)
    for axes, cutoff in zip(panels, CUTOFFS, strict=True):
        for number, (network, part) in enumerate(rows[rows["cutoff"] == cutoff].groupby("network", sort=False)):
            axes.plot(
                part["drift_ratio_start"], part["dominance_end"], "os^vD"[number % 5], color=COLOURS[number],
                markersize=4, alpha=0.8, label=str(network).strip("`"),
            )  # fmt: skip
        log_axis(axes, "x")
        axes.axhline(0.5, color="0.8", linewidth=0.6, zorder=0)
        axes.set(title=f"cutoff {cutoff:g}", xlabel="drift ratio at initialisation", ylim=(0, 1.03))
    panels[0].set_ylabel("dominance after 300 steps")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    rows = runs(frames)
    names = {"mlp": "MLP", "cnn": "`cnn`", "resnet18": "ResNet-18", "none": NORMS["none"], "group": NORMS["group"]}
    names |= {model: title for model, title in MODELS.items() if title in set(rows["network"])}
    found = {}
    for key, network in names.items():
        for cutoff in CUTOFFS:
            part = rows[(rows["network"] == network) & (rows["cutoff"] == cutoff)]
            if len(part):
                found[f"escaped_{key}_{round(100 * cutoff)}"] = rate(escaped(part))
    medians = rows.groupby("network")["drift_ratio_start"].median()
    found |= {f"drift_{key}": f"{medians[network]:.2g}" for key, network in names.items()}
    between = spearmanr(medians, rows.groupby("network")["escape_step"].apply(lambda steps: np.mean(steps.notna())))
    return {**found, "drift_rank": f"{between.statistic:.2f}"}
