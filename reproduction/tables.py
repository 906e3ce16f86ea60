"""The tables of the pages on the paper, from the CSV files of its stages."""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pandas as pd

from igb._checks import InputError
from igb.folder.schema import FINAL
from igb.report.prediction import dominance_of
from reproduction.collect import CLASS_QUANTITIES
from reproduction.common import Frames, interval, last_probe, markdown, median_and_range, where

SCALINGS = ("standard", "unit", "symmetric", "raw")
TABULATED = ("standard", "raw")
INITS = ("he", "torchvision", "replaced_conv1", "torch_default")
MODES = {"running": "running statistics", "batch": "batch statistics"}
NEAR_ONE = 0.9  # what "near 1" is taken to mean
CLASSES = 10  # of CIFAR-10
ALIVE = 0.1  # p̄_k above which a class has not been given up
ALONE = 0.95  # of the guesses: a class with as many is said to stand alone
LAST = 6  # probes, over which the end of a run is averaged where another class leads from one to the next
FIRST_STEPS = (0, 5, 10, 20, 100)
SPREADS = {"p_spread": "p̄_k", "accuracy_spread": "Acc_k"}
LOSSES = ("ce", "bl_detached", "bl", "pz")
CONV1_CELL = ("favoured_conv1", 0.01, 0.0)
PZ_CELLS = (
    ("small_rate", 0.001, 0.0),
    ("favoured_class", 0.001, 0.9),
    ("favoured_class", 0.01, 0.9),
    CONV1_CELL,
)  # stages, rates and momenta with PZ on ten seeds
PZ_NEEDS = ("small_rate", "favoured_class", "favoured_conv1")
LONG_EPOCHS = (0, 1, 5, 10, 20)
END_QUANTITIES = {"accuracy": "accuracy", "mean_p": "mean p̄_k"}
CELL = ["init", "scaling", "lr", "momentum", "seed"]


def initialisation(frames: Frames) -> str:
    """Largest p̄_k and dominance at initialisation: median and range over the seeds."""
    runs = frames["initialisation"]
    rows = []
    for init in INITS:
        for scaling in TABULATED:
            cell = where(runs, init=init, scaling=scaling)
            if cell.empty:
                continue
            running, batch = (cell[cell["batch_norm"] == mode] for mode in MODES)
            rows.append(
                [
                    f"`{init}`",
                    scaling,
                    median_and_range(running["largest_p"]),
                    f"{(running['largest_p'] > NEAR_ONE).sum()} of {len(running)}",
                    median_and_range(running["dominance"]),
                    median_and_range(batch["largest_p"]),
                    median_and_range(batch["dominance"]),
                ]
            )
    head = ["init", "scaling", "largest p̄_k", f"seeds above {NEAR_ONE:g}", "dominance", "batch: largest p̄_k",
            "batch: dominance"]  # fmt: skip
    return markdown(head, rows)


def training_batches(frames: Frames) -> str:
    """Largest p̄_k and dominance of the same `he` networks by the size of the chunks that normalise them."""
    large = where(frames["initialisation"], init="he", scaling="standard", batch_norm="batch").set_index("seed")
    small = frames["training_batches"].set_index("seed")
    large = large.loc[small.index]
    rows = [
        [title, median_and_range(some["largest_p"]), median_and_range(some["dominance"]), same]
        for title, some, same in (
            ("500 images", large, ""),
            ("32 images", small, f"{(small['favoured'] == large['favoured']).sum()} of {len(small)}"),
        )
    ]
    return markdown(["normalised by", "largest p̄_k", "dominance", "same favoured class"], rows)


def features(frames: Frames) -> str:
    """How alike images look to untrained networks: means over the seeds."""
    columns = ["cosine", "class_spread", "image_spread", "ratio", "dominance", "bl_wrong_way", "pz_active"]
    networks = drifts(frames["features"])
    networks = networks.assign(bl_wrong_way=networks["bl_wrong_way"] * networks["bl_active"])
    means = networks.groupby(["init", "batch_norm"])[columns].mean()
    rows = [
        [f"`{init}`", title, *(f"{value:.3g}" for value in means.loc[(init, mode)])]
        for init in INITS
        for mode, title in MODES.items()
    ]
    head = ["init", "normalised by", "cosine", "spread of logits over classes", "over images", "drift ratio",
            "dominance by theory", "BL: pushed the wrong way", "PZ: with a gradient"]  # fmt: skip
    return markdown(head, rows)


def first_batches(frames: Frames) -> str:
    """How far classes are from 1/C after some batches: mean and 95 % interval over seeds; not where nothing moves."""
    rows = []
    for start, runs in starts(frames).items():
        moving = runs[(runs["batch_norm"] == "running") | (runs["lr"] > 0)]
        for (lr, mode), some in moving.groupby(["lr", "batch_norm"]):
            for quantity, title in SPREADS.items():
                values = [interval(where(some, step=step)[quantity]) for step in FIRST_STEPS]
                rows.append([start, f"{lr:g}", mode, title, *values])
    head = ["", "learning rate", "statistics", "distance from 0.1 of", *(f"after {step}" for step in FIRST_STEPS)]
    return markdown(head, rows)


def starts(frames: Frames) -> dict[str, pd.DataFrame]:
    """The runs of the first batches by what they start from."""
    runs = [frames[stage] for stage in ("first_batches", "replaced_conv1")]
    return {", ".join(some[["init", "scaling"]].iloc[0]): some for some in runs}


def pz_cells(frames: Frames) -> dict[str, pd.DataFrame]:
    """PZ's runs on ten seeds by start, rate, momentum and batches, all probes in both modes.

    A cell that was not run is left out. Raises InputError if none was.
    """
    cells = {}
    for stage, lr, momentum in PZ_CELLS:
        runs = where(frames[stage], lr=lr, momentum=momentum)
        if len(runs):
            cells[f"{runs['init'].iloc[0]}, {lr:g}, {momentum:g}, {runs['step'].max():,.0f}"] = runs
    if not cells:
        raise InputError(f"no run of {', '.join(PZ_NEEDS)} has a rate and momentum in {PZ_CELLS}")
    return cells


def piecewise_zero(frames: Frames) -> str:
    """How PZ leaves the classes in each cell: numbers of seeds, averaged over the last probes."""
    cells = pz_cells(frames)
    rows = [
        [title, *(f"{held(runs, holds):.1f} of {runs['seed'].nunique()}" for runs in cells.values())]
        for title, holds in PZ_COUNTS.items()
    ]
    guessed = [median_and_range(last_probes(runs).groupby("seed")["guessed"].mean(), ".1f") for runs in cells.values()]
    return markdown(["start, rate, momentum, batches", *cells], [*rows, ["classes guessed", *guessed]])


def driving(frames: Frames) -> str:
    """What drives training under PZ in each cell, by batch statistics: median and range over the seeds."""
    cells = {title: where(runs, batch_norm="batch") for title, runs in pz_cells(frames).items()}
    medians: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
        "share of the class favoured by batch statistics in all batches' gradients": lambda runs: share_over_training(
            runs, "favoured_share"
        ),
        "share of the class most guessed at the time": lambda runs: share_over_training(runs, "dominant_share"),
        "active fraction at initialisation": lambda runs: where(runs, step=0)["active"],
        "active fraction at the end": lambda runs: last_probe(runs)["active"],
        "mean norm of the gradient at the end": lambda runs: last_probe(runs)["gradient"],
    }
    rows = [[title, *(median_and_range(of(runs), ".2g") for runs in cells.values())] for title, of in medians.items()]
    return markdown(["start, rate, momentum, batches", *cells], rows)


def share_over_training(runs: pd.DataFrame, share: str) -> "pd.Series[float]":
    """The part of the gradient norms of all batches that is of the class of the column `share`, for each seed.

    The integral over batches, by the trapezoid rule over the probes, of the mean norm that is the class's, over that of
    the mean norm.
    """

    def part(run: pd.DataFrame) -> float:
        of_class = run["gradient"] * run[share].fillna(0)  # no gradient, no shares
        return float(np.trapezoid(of_class, run["step"]) / np.trapezoid(run["gradient"], run["step"]))

    return pd.Series({seed: part(run) for seed, run in runs.groupby("seed")})


def epoch_one(frames: Frames) -> str:
    """How the runs of one epoch end, but for those of PZ."""
    runs = frames["epoch_one"]
    return _ends(runs[runs["loss"] != "pz"], {"loss": "loss", "lr": "rate", "seed": "seed"})


def exact(frames: Frames) -> str:
    """How the runs of one cell end in `exact`, and the same in `fast`."""
    cell = frames["exact"][["loss", *CELL]].drop_duplicates()
    fast = pd.concat([frames["open_choices"], frames["piecewise_zero"]]).merge(cell)
    both = pd.concat([frames["exact"], fast])
    return _ends(where(both, batch_norm="running"), {"loss": "loss", "compute": "compute"})


def uniform_start(frames: Frames) -> str:
    """How the runs from uniform outputs end."""
    return _ends(frames["uniform_start"], {"loss": "loss", "lr": "rate", "seed": "seed"})


def long_run(frames: Frames) -> str:
    """How the losses stand after some epochs: over the classes, and the class favoured at initialisation."""
    classes = frames["long_run_classes"]
    shown = [epoch for epoch in LONG_EPOCHS if epoch in set(classes["epoch"])]
    rows = []
    for loss, seed in product(LOSSES, sorted(classes["seed"].unique())):
        run = where(classes, loss=loss, seed=seed)
        for epoch in shown:
            at = where(run, epoch=epoch)
            if at.empty:  # of a run that diverged
                continue
            favoured = at[at["rank"] == 1].iloc[0]
            rows.append(
                [
                    f"`{loss}`",
                    f"{seed}",
                    f"{epoch}",
                    median_and_range(at["probability"]),
                    median_and_range(at["accuracy"]),
                    *(f"{favoured[name]:.2f}" for name in CLASS_QUANTITIES),
                    f"{1 + (at['probability'] > favoured['probability']).sum()}",
                ]
            )
    head = ["loss", "seed", "epoch", "p̄_k", "Acc_k", "favoured class: p̄", "its Acc", "its place by p̄"]
    return markdown(head, rows)


def remedy(frames: Frames) -> str:
    """What the epochs of cross-entropy before PZ do, beside cross-entropy and PZ alone after as many epochs."""
    runs = remedies(frames)
    return _ends(runs, {"loss": "loss", "warmup_epochs": "epochs of CE first"})


def remedies(frames: Frames) -> pd.DataFrame:
    """The runs of the remedy, and CE and PZ of the long run from the same start, as far as they."""
    runs, alone = frames["remedy"], frames["long_run"]
    same = alone["loss"].isin(["ce", "pz"]) & alone["seed"].isin(runs["seed"])
    alone = alone[same & (alone["step"] <= runs["step"].max())]
    return pd.concat([alone, runs])


def choices(frames: Frames) -> str:
    """How each loss leaves the cells of the grid over initialisers, rates and momenta, of one seed."""
    grid = pd.concat([frames["open_choices"], frames["piecewise_zero"]])
    end = last_probe(where(grid, batch_norm="running"))
    rows = []
    for loss in LOSSES:
        cells = where(end, loss=loss)
        if len(cells):
            counts = [np.isfinite(cells["escape_step"]).sum(), (cells["dominance"] >= ALONE).sum()]
            shares = [f"{count} of {len(cells)}" for count in counts]
            rows.append(
                [f"`{loss}`", *shares, median_and_range(cells["guessed"], ".0f"), median_and_range(cells["accuracy"])]
            )
    head = ["loss", "escaped", f"one class has {ALONE:.0%} of the guesses", "classes guessed", "accuracy"]
    return markdown(head, rows)


def _ends(runs: pd.DataFrame, keys: Mapping[str, str]) -> str:
    """The last probe of each run, known by the columns in `keys` with their titles."""
    end = last_probe(runs)
    end["order"] = end["loss"].map(LOSSES.index)
    end = end.sort_values([{"loss": "order"}.get(key, key) for key in keys], kind="stable")
    batch = where(end, batch_norm="batch").set_index(list(keys))["favoured"]
    favourites = "favoured: running, batch" if len(batch) else "favoured"
    rows = []
    for _, run in where(end, batch_norm="running").iterrows():
        known = [run[key] for key in keys]
        favoured = [run["favoured"], *([batch[tuple(known)]] if len(batch) else [])]
        rows.append(
            [
                *(f"`{one}`" if isinstance(one, str) else f"{one:g}" for one in known),
                ", ".join(f"{k:.0f}" for k in favoured),
                f"{run['escape_step']:,.0f}".replace("inf", "never"),
                f"{run['dominant']:.0f} ({run['dominance']:.2f})",
                f"{run['guessed']:.0f}",
                *(f"{run[name]:.2f}" for name in END_QUANTITIES),
            ]
        )
    head = [*keys.values(), favourites, "escape step", "most guessed (dominance)", "guessed",
            *END_QUANTITIES.values()]  # fmt: skip
    return markdown(head, rows)


def stages(frames: Frames) -> str:
    """What was run for each stage, how much of it is finished, and what it cost."""
    runs = frames["runs"]
    hours = runs["wall_seconds"] * runs["threads"] / 3600
    rows = []
    for stage, some in runs.groupby("stage", sort=False):
        finished = some["status"].isin(FINAL)
        precision, images, threads = (
            ", ".join(form(value) for value in some[column].dropna().unique())
            for column, form in (("precision", str), ("images", "{:,.0f}".format), ("threads", "{:.0f}".format))
        )
        longest = f"{some['steps'].max():,.0f}" if finished.any() else ""
        done = f"{finished.sum()} of {len(some)}"
        rows.append([f"`{stage}`", done, longest, images, precision, threads, f"{hours[some.index].sum():.1f}"])
    rows.append(["all", f"{runs['status'].isin(FINAL).sum()} of {len(runs)}", "", "", "", "", f"{hours.sum():.1f}"])
    head = ["stage", "runs finished", "steps", "images per probe", "precision", "threads", "processor hours"]
    return markdown(head, rows)


def drifts(networks: pd.DataFrame) -> pd.DataFrame:
    """The networks of features.csv with their drift `ratio` and the `dominance` that the theory gives for it."""
    ratio = (networks["class_spread"] / networks["image_spread"]) ** 2
    return networks.assign(ratio=ratio, dominance=[dominance_of(one, CLASSES) for one in ratio])


def leads(end: pd.DataFrame) -> "pd.Series[bool]":
    """Whether the favoured class has the most guesses."""
    return end["dominant"] == end["favoured"]


def highest(end: pd.DataFrame) -> "pd.Series[bool]":
    """Whether it has the highest p̄."""
    return end["favoured_p"] > end["others_p"]


PZ_COUNTS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    f"one class has {ALONE:.0%} of the guesses or more": lambda runs: runs["dominance"] >= ALONE,
    "the favoured class has the most guesses": leads,
    "the class favoured by batch statistics has the most guesses": lambda runs: (
        runs["dominant"] == runs["favoured_by_batch"]
    ),
    "the favoured class has the highest p̄": highest,
    f"it has a p̄ above {ALIVE:g}": lambda runs: runs["favoured_p"] > ALIVE,
}


def last_probes(runs: pd.DataFrame) -> pd.DataFrame:
    """The last probes of each run in evaluation mode, and the class that its batch statistics favoured at first."""
    by_batch = where(runs, batch_norm="batch", step=0).set_index("seed")["favoured"]
    last = where(runs, batch_norm="running").groupby("seed").tail(LAST)
    return last.assign(favoured_by_batch=last["seed"].map(by_batch))


def held(runs: pd.DataFrame, holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> float:
    """In how many of some runs something holds, on average over their last probes."""
    last = last_probes(runs)
    return float(holds(last).groupby(last["seed"]).mean().sum())


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Frames], str]]] = {
    "stages": (("runs",), stages),
    "initialisation": (("initialisation",), initialisation),
    "training_batches": (("initialisation", "training_batches"), training_batches),
    "features": (("features",), features),
    "first_batches": (("first_batches", "replaced_conv1"), first_batches),
    "choices": (("open_choices", "piecewise_zero"), choices),
    "piecewise_zero": (PZ_NEEDS, piecewise_zero),
    "driving": (PZ_NEEDS, driving),
    "epoch_one": (("epoch_one",), epoch_one),
    "exact": (("open_choices", "piecewise_zero", "exact"), exact),
    "uniform_start": (("uniform_start",), uniform_start),
    "long_run": (("long_run_classes",), long_run),
    "remedy": (("long_run", "remedy"), remedy),
}  # and the CSV files that each is made of
