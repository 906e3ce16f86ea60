"""Hypothesis 3: whether less bias at the start means an earlier escape, and the favoured class is the winner."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import MODELS, by_batch, escaped, median_step

NEEDS = ("dial", "drift", "center", "cutoffs", "architectures")
DIALS = {"dial": "target_dominance", "drift": "drift_ratio"}
TITLES = {"dial": "`cnn`, `init.target_dominance`", "drift": "MLP, `init.drift_ratio`"}


def dials(frames: Frames) -> str:
    """What becomes of the same network from different starts."""
    table = []
    for stage, key in DIALS.items():
        for value, part in frames[stage].groupby(key):
            start = f"{part['dominance_start'].mean():.2f}"
            table.append([TITLES[stage], f"{value:g}", start, *_outcome(part)])
    for (model, cutoff), part in _centered(frames):
        for name, some in (("none", _uncentered(frames, str(model), float(cutoff))), ("centred head", part)):
            start = f"{some['dominance_start'].mean():.2f}"
            table.append([f"{MODELS[str(model)]}, cutoff {cutoff:g}", name, start, *_outcome(some)])
    head = ["network and dial", "at", "dominance", "escaped", "median step", "dominance at the end", "accuracy"]
    return markdown(head, table)


def _outcome(part: pd.DataFrame) -> list[str]:
    measures = [interval(part[name], ".2f") for name in ("dominance_end", "mean_accuracy")]
    return [rate(escaped(part)), median_step(part), *measures]


def _centered(frames: Frames) -> Any:
    """The runs with a centred head by network and cutoff."""
    return by_batch(frames["center"]).groupby(["model", "cutoff"])


def _uncentered(frames: Frames, model: str, cutoff: float) -> pd.DataFrame:
    """The runs that those of a network with a centred head are compared with."""
    if model == "resnet18":
        rows = frames["cutoffs"][frames["cutoffs"]["loss"] == "pz"]
    else:
        rows = frames["architectures"][frames["architectures"]["model"] == model]
    return by_batch(rows[rows["cutoff"] == cutoff])


def winners(frames: Frames) -> pd.DataFrame:
    """Of the runs that end with one class above half of the guesses, whether that is the one that was favoured.

    By `chance` it would be as often as both classes meet if drawn apart, each as often as it occurs.
    """
    found = []
    rows = {stage: frames[stage] for stage in DIALS}
    architectures = frames["architectures"]
    rows["cnn"] = architectures[architectures["model"] == "cnn"]
    cutoffs = frames["cutoffs"]
    rows["resnet18"] = by_batch(cutoffs[cutoffs["loss"] == "pz"])
    for name, some in rows.items():
        ended = some[~escaped(some) & some["dominant_class"].notna() & some["favoured_class"].notna()]
        if ended.empty:
            continue
        won = ended["dominant_class"] == ended["favoured_class"]
        shares = [ended[column].value_counts(normalize=True) for column in ("dominant_class", "favoured_class")]
        chance = float(shares[0].mul(shares[1], fill_value=0).sum())
        p = binomtest(int(won.sum()), len(won), chance, alternative="greater").pvalue if 0 < chance < 1 else 1.0
        found.append({"runs": name, "won": won, "chance": chance, "p": p})
    return pd.DataFrame(found)


def favoured(frames: Frames) -> str:
    """The table of winners."""
    titles = {"dial": "`cnn`, from four dominances", "drift": "MLP, from four drift ratios",
              "cnn": "`cnn`, cutoffs 0.1 and 0.2", "resnet18": "ResNet-18, all cutoffs"}  # fmt: skip
    table = [
        [titles[row.runs], rate(row.won), f"{100 * row.chance:.0f} %", f"{row.p:.2g}"]
        for row in winners(frames).itertuples()
    ]
    return markdown(["runs that end with one class", "which was the favoured one", "by chance", "p"], table)


def figure(frames: Frames) -> Figure:
    """Dominance after 300 steps over dominance at initialisation: a panel a dial, a point a run."""
    drawn = Figure(figsize=(7.2, 2.7), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, stage in zip(panels, DIALS, strict=True):
        rows = frames[stage]
        for colour, (value, part) in zip(COLOURS[::2], rows.groupby(DIALS[stage]), strict=False):
            axes.plot(
                part["dominance_start"], part["dominance_end"], "o", color=colour, markersize=3.5, alpha=0.8,
                label=f"{value:g}",
            )  # fmt: skip
        axes.axhline(0.5, color="0.8", linewidth=0.6, zorder=0)
        axes.set(
            title=TITLES[stage].replace("`", ""), xlabel="dominance at initialisation", xlim=(0, 1.03), ylim=(0, 1.03)
        )
        axes.legend(frameon=False, fontsize=7, loc="upper left")
    panels[0].set_ylabel("dominance after 300 steps")
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found = {}
    for stage, key in DIALS.items():
        rows = frames[stage]
        found[f"{stage}_escaped"] = rate(escaped(rows))
        for value, part in rows.groupby(key):
            found[f"{stage}_escaped_{round(10 * float(value))}"] = rate(escaped(part))
    for row in winners(frames).itertuples():
        found |= {f"won_{row.runs}": rate(row.won), f"chance_{row.runs}": f"{100 * row.chance:.0f} %"}
    return found | centred(frames)


def centred(frames: Frames) -> dict[str, str]:
    """What the text says of networks with a centred head."""
    found: dict[str, str] = {}
    for (model, cutoff), part in _centered(frames):
        key = f"centred_{model}_{round(100 * float(cutoff))}"
        found |= {
            key: rate(escaped(part)), f"{key}_dominance": f"{part['dominance_start'].mean():.2f}",
            f"{key}_ratio": f"{part['drift_ratio_start'].median():.2g}",
        }  # fmt: skip
    return found
