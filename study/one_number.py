"""Hypothesis 1: what the mean gradient weight at initialisation says of what training will do."""

from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from igb._plots import COLOURS
from reproduction.common import Frames, interval, markdown, rate
from study.runs import MODELS, by_batch, escaped

NEEDS = ("losses",)
NETWORKS = ("resnet18", "cnn", "mlp")
FEWEST = 4  # seeds, of which half are predicted from the others
WRONG_WAY = "bl"  # pushes away from the true class where its probability is small
DEAD = ("pz", "pz_smooth", "phuber", "agce")
SPLITS = 50  # random halves of the losses and of the seeds
Values: TypeAlias = "pd.Series[float] | np.ndarray"
MEASURES = {"mean_accuracy": "accuracy", "log_escape": "log10 of the escape step"}
WAYS = {"nothing": "the network alone", "weight": "the weight", "loss": "the loss's name"}


def runs(frames: Frames) -> pd.DataFrame:
    """The runs of all losses on networks with enough seeds.

    With `log_escape`, in which a run that has not escaped counts as if it just had.
    """
    rows = by_batch(frames["losses"])
    rows = rows[rows.groupby("model")["seed"].transform("nunique") >= FEWEST]
    return rows.assign(log_escape=np.log10(1 + rows["escape_step"].fillna(rows["steps"])))


def networks(rows: pd.DataFrame) -> list[str]:
    """The networks of some runs."""
    return [network for network in NETWORKS if network in set(rows["model"])]


def fitted(weight: Values, value: Values, at: Values, rising: bool) -> np.ndarray:
    """The monotone function of weight that fits values best, elsewhere; beyond what was seen it goes on flat."""
    fit = IsotonicRegression(increasing=rising, out_of_bounds="clip").fit(weight, value)
    return np.asarray(fit.predict(at))


def errors(frames: Frames) -> pd.DataFrame:
    """Root mean square errors of each way to predict, on the other half of losses and seeds: a row for each split."""
    rows = runs(frames)
    rows = rows[rows["loss"] != WRONG_WAY]
    losses, seeds = np.unique(rows["loss"]), np.unique(rows["seed"])
    generator, found = np.random.default_rng(0), []
    for split in range(SPLITS):
        known = generator.permutation(losses)[: len(losses) // 2]
        own = generator.permutation(seeds)[: len(seeds) // 2]
        for network in networks(rows):
            some = rows[rows["model"] == network]
            loss, weight = some["loss"].to_numpy(), some["weight_start"].to_numpy()
            is_own, is_known = np.isin(some["seed"], own), np.isin(loss, known)
            train, test = is_own & is_known, ~is_own & ~is_known
            for measure in MEASURES:
                value = some[measure].to_numpy()
                ways = {
                    "nothing": value[train].mean(),
                    "weight": fitted(weight[train], value[train], weight[test], measure == "mean_accuracy"),
                    "loss": np.array([value[is_own & (loss == one)].mean() for one in loss[test]]),
                }
                error = {way: np.sqrt(np.mean((value[test] - guess) ** 2)) for way, guess in ways.items()}
                found.append({"split": split, "network": network, "measure": measure, **error})
    return pd.DataFrame(found)


def prediction(frames: Frames) -> str:
    """How well each way predicts runs of other losses and seeds, and how weight and outcome are ranked."""
    found, rows = errors(frames), runs(frames)
    rows = rows[rows["loss"] != WRONG_WAY]
    table = []
    for network in networks(rows):
        some = rows[rows["model"] == network]
        for measure, title in MEASURES.items():
            part = found[(found["network"] == network) & (found["measure"] == measure)]
            rank = spearmanr(some["weight_start"], some[measure]).statistic
            spread = f"{some[measure].std():.3f}"
            table.append([MODELS[network], title, spread, *(f"{part[way].mean():.3f}" for way in WAYS), f"{rank:.2f}"])
    return markdown(["network", "predicted", "standard deviation", *WAYS.values(), "rank correlation"], table)


def below(frames: Frames) -> pd.DataFrame:
    """Of losses that let little or nothing through in places, accuracy less that of others of their weight."""
    rows = runs(frames)
    found = []
    for network in networks(rows):
        some = rows[rows["model"] == network]
        others = some[~some["loss"].isin([*DEAD, WRONG_WAY])]
        for loss in (*DEAD, WRONG_WAY):
            part = some[some["loss"] == loss]
            expected = fitted(others["weight_start"], others["mean_accuracy"], part["weight_start"], rising=True)
            found.append(part.assign(expected=expected, below=part["mean_accuracy"] - expected))
    return pd.concat(found)


def dead_zones(frames: Frames) -> str:
    """The table of them."""
    table = []
    for (network, loss), part in below(frames).groupby(["model", "loss"], sort=False):
        columns = ("weight_start", "mean_accuracy", "expected")
        table.append(
            [
                MODELS[network],
                f"`{loss}`",
                *(f"{part[one].mean():.3f}" for one in columns),
                interval(part["below"], ".3f"),
            ]
        )
    return markdown(["network", "loss", "weight", "accuracy", "of others at that weight", "difference"], table)


def figure(frames: Frames) -> Figure:
    """Accuracy after the last step over the weight at initialisation: a panel a network, a point a run."""
    rows = runs(frames)
    drawn = Figure(figsize=(7.2, 2.9), layout="constrained")
    panels = drawn.subplots(1, len(networks(rows)), sharey=True, squeeze=False)[0]
    for axes, network in zip(panels, networks(rows), strict=True):
        some = rows[rows["model"] == network]
        others = some[~some["loss"].isin([*DEAD, WRONG_WAY])].sort_values("weight_start")
        axes.plot(others["weight_start"], others["mean_accuracy"], ".", color="0.6", markersize=4, label="other losses")
        line = fitted(others["weight_start"], others["mean_accuracy"], others["weight_start"], rising=True)
        axes.plot(others["weight_start"], line, color="0.6", linewidth=1)
        for colour, loss in zip(COLOURS[::2], (*DEAD, WRONG_WAY), strict=True):
            part = some[some["loss"] == loss]
            axes.plot(part["weight_start"], part["mean_accuracy"], "o", color=colour, markersize=3, label=loss)
        axes.axhline(0.1, color="0.8", linewidth=0.6, zorder=0)
        axes.set(title=MODELS[network].strip("`"), xlabel="mean weight at initialisation")
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xticks([-0.1, 0, 0.1, 1], ["-0.1", "0", "0.1", "1"])
        axes.minorticks_off()
    panels[0].set_ylabel("accuracy after 300 steps")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def numbers(frames: Frames) -> dict[str, str]:
    """What the text says of it."""
    found, lower, rows = errors(frames), below(frames), runs(frames)
    accuracy = found[found["measure"] == "mean_accuracy"].groupby("network")[list(WAYS)].mean()
    worst = lower.groupby(["model", "loss"])["below"].mean()
    return {
        **{f"error_{network}_{way}": f"{accuracy.loc[network, way]:.3f}" for network in accuracy.index for way in WAYS},
        **{f"below_{network}_{loss}": f"{value:+.3f}" for (network, loss), value in worst.items()},
        "left_mlp": rate(escaped(rows[(rows["loss"] != WRONG_WAY) & (rows["model"] == "mlp")])),
    }
