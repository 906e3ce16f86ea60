"""The tables of docs/reproduction.md, from the CSV files of its stages."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from igb.folders import FINAL
from igb.report.escape import THRESHOLD, Censored, first_for_good
from igb.report.settings import mean_and_half_width
from reproduction.collect import CLASS_QUANTITIES, KEYS

SCALINGS = ("standard", "unit", "symmetric", "raw")
TABULATED = ("standard", "raw")
INITS = ("he", "torchvision", "replaced_conv1", "torch_default")
MODES = {"running": "running statistics", "batch": "batch statistics"}
NEAR_ONE = 0.9  # what "near 1" is taken to mean
ALIVE, GONE = 0.1, 0.01  # p̄_k above which a class has not been given up, and below which it has
ALONE = 0.95  # of the guesses: a class with as many is said to stand alone
FALLEN, RISEN = (50, 130), (790, 1563)  # batches between which a favoured class may rise again
FIRST_STEPS = (0, 5, 10, 20, 100)
SPREADS = {"p_spread": "p̄_k", "accuracy_spread": "Acc_k"}
LOSSES = ("ce", "bl_detached", "bl", "pz")
PZ_STAGES = ("small_rate", "favoured_class", "favoured_conv1")
PZ_QUANTITIES = (
    ("running", "guessed", "classes guessed", ".1f"),
    ("running", "dominant_accuracy", "Acc of the class most guessed", ".2f"),
    ("batch", "active", "batch statistics: active fraction", ".2f"),
    ("batch", "gradient", "batch statistics: mean norm of the gradient", ".2g"),
    ("batch", "dominant_share", "batch statistics: share of the class most guessed in it", ".2f"),
    ("batch", "favoured_share", "batch statistics: share of the class that they favour in it", ".2f"),
)
LONG_EPOCHS = (0, 1, 5, 10, 20)
END_QUANTITIES = {
    "accuracy": "accuracy",
    "mean_p": "mean p̄_k",
    "favoured_p": "p̄ of the favoured class",
    "others_p": "largest other p̄_k",
    "favoured_accuracy": "Acc of the favoured class",
    "favoured_share": "its share of the gradient",
}
OPEN = "open: its runs are not finished"
CELL = ["init", "scaling", "lr", "momentum", "seed"]
FIGURE = "{folder}"  # stands for the folder of the figures until a page is filled in

Frames = Mapping[str, pd.DataFrame]  # the CSV files by their names


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: `number` gives what decides it, from the CSV files in `needs`."""

    claim: str
    verdict: str
    needs: tuple[str, ...]
    number: Callable[[Frames], str]
    figure: str


def verdicts(frames: Frames) -> str:
    """The table of claims; open are those whose runs are not there."""
    rows = [
        [one.claim, one.verdict, one.number(frames), f"[figure]({FIGURE}/{one.figure}.png)"]
        if set(one.needs) <= set(frames)
        else [one.claim, OPEN, "", ""]
        for one in VERDICTS
    ]
    return markdown(["claim", "verdict", "number", ""], rows)


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
                    _range(running["largest_p"]),
                    f"{(running['largest_p'] > NEAR_ONE).sum()} of {len(running)}",
                    _range(running["dominance"]),
                    _range(batch["largest_p"]),
                    _range(batch["dominance"]),
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
        [title, _range(some["largest_p"]), _range(some["dominance"]), same]
        for title, some, same in (
            ("500 images", large, ""),
            ("32 images", small, f"{(small['favoured'] == large['favoured']).sum()} of {len(small)}"),
        )
    ]
    return markdown(["normalised by", "largest p̄_k", "dominance", "same favoured class"], rows)


def features(frames: Frames) -> str:
    """How alike images look to untrained networks: means over the seeds."""
    columns = ["cosine", "class_spread", "image_spread", "bl_wrong_way", "pz_active"]
    networks = frames["features"]
    networks = networks.assign(bl_wrong_way=networks["bl_wrong_way"] * networks["bl_active"])
    means = networks.groupby(["init", "batch_norm"])[columns].mean()
    rows = [
        [f"`{init}`", title, *(f"{value:.3g}" for value in means.loc[(init, mode)])]
        for init in INITS
        for mode, title in MODES.items()
    ]
    head = ["init", "normalised by", "cosine", "spread of logits over classes", "over images",
            "BL: pushed the wrong way", "PZ: with a gradient"]  # fmt: skip
    return markdown(head, rows)


def first_batches(frames: Frames) -> str:
    """How far classes are from 1/C after some batches: mean and 95 % interval over seeds; not where nothing moves."""
    rows = []
    for start, runs in starts(frames).items():
        moving = runs[(runs["batch_norm"] == "running") | (runs["lr"] > 0)]
        for (lr, mode), some in moving.groupby(["lr", "batch_norm"]):
            for quantity, title in SPREADS.items():
                values = [_interval(where(some, step=step)[quantity]) for step in FIRST_STEPS]
                rows.append([start, f"{lr:g}", f"{mode}", title, *values])
    head = ["", "learning rate", "statistics", "distance from 0.1 of", *(f"after {step}" for step in FIRST_STEPS)]
    return markdown(head, rows)


def starts(frames: Frames) -> dict[str, pd.DataFrame]:
    """The runs of the first batches by what they start from, as far as they are finished."""
    runs = [frames[stage] for stage in ("first_batches", "replaced_conv1") if stage in frames]
    return {", ".join(some[["init", "scaling"]].iloc[0]): some for some in runs}


def pz_cells(frames: Frames, *stages: str) -> dict[str, pd.DataFrame]:
    """The last probes of PZ's runs in each cell of some stages, as far as they are finished, both modes."""
    cells = {}
    for stage in stages or PZ_STAGES:
        runs = frames.get(stage, pd.DataFrame(columns=["lr", "momentum"]))
        for (lr, momentum), some in runs.groupby(["lr", "momentum"]):
            end = last_probe(some)
            cells[f"{end['init'].iloc[0]}, {lr:g}, {momentum:g}, {end['step'].max():,.0f}"] = end
    return cells


def favoured_class(frames: Frames) -> str:
    """The classes that may be expected to lead under PZ, those most guessed at the end, seed by seed, and the hits."""
    cells = pz_cells(frames, "small_rate", "favoured_class")
    start = {mode: where(next(iter(cells.values())), batch_norm=mode).set_index("seed") for mode in MODES}
    small = frames["training_batches"].set_index("seed")["favoured"]
    pushed = where(frames["features"], init="he", batch_norm="batch").set_index("seed")["pz_pushed"]
    guesses = {
        "favoured": start["running"]["favoured"],
        "favoured by batch statistics": start["batch"]["favoured"],
        "so in batches of 32": small.reindex(start["running"].index),
        "pushed up most by PZ": pushed.reindex(start["running"].index),
    }
    ends = {title: where(end, batch_norm="running").set_index("seed") for title, end in cells.items()}
    rows = []
    for seed in start["running"].index:
        most = [end.loc[seed] for end in ends.values()]
        classes = [f"{guess[seed]:.0f}" for guess in guesses.values()]
        rows.append([f"{seed}", *classes, *(f"{one['dominant']:.0f} ({one['dominance']:.2f})" for one in most)])
    for title, guess in guesses.items():
        hits = [f"{(end['dominant'] == guess.reindex(end.index)).sum()} of {len(end)}" for end in ends.values()]
        rows.append([f"*{title}* is the most guessed", *[""] * len(guesses), *hits])
    return markdown(["seed", *guesses, *(f"most guessed: {title}" for title in ends)], rows)


def favoured_conv1(frames: Frames) -> str:
    """How the runs under PZ from the start of replaced_conv1 end."""
    return _ends(frames["favoured_conv1"], {"lr": "rate", "momentum": "momentum", "seed": "seed"})


def small_rate(frames: Frames) -> str:
    """Whether the favoured class rises again under PZ at the small rate, seed by seed."""
    classes = frames["small_rate_classes"]
    end = where(last_probe(frames["small_rate"]), batch_norm="running").set_index("seed")
    rows = []
    for seed, run in classes.groupby("seed"):
        p = where(run, rank=1).set_index("step")["probability"]
        last = where(run, step=run["step"].max()).set_index("class")["probability"]
        rows.append(
            [
                f"{seed}",
                f"{end.loc[seed, 'favoured']:.0f}",
                *(f"{value:.2f}" for value in (p[0], p.loc[slice(*FALLEN)].mean(), p.loc[slice(*RISEN)].mean())),
                f"{last.idxmax()} ({last.max():.2f})",
                f"{end.loc[seed, 'guessed']:.0f}",
                f"{(last < GONE).sum()}",
            ]
        )
    windows = [f"mean p̄, batches {first} to {last:,}" for first, last in (FALLEN, RISEN)]
    head = ["seed", "favoured class", "its p̄ at initialisation", *windows, "highest p̄_k at the end", "classes guessed",
            f"with p̄_k below {GONE:g}"]  # fmt: skip
    return markdown(head, rows)


def piecewise_zero(frames: Frames) -> str:
    """How PZ leaves the classes, and what drives it, at each rate: counts of seeds, or their median and range."""
    cells = pz_cells(frames)
    rows = [[title, *(_count(end, holds) for end in cells.values())] for title, holds in PZ_COUNTS.items()]
    rows += [
        [title, *(_range(where(end, batch_norm=mode)[name], digits) for end in cells.values())]
        for mode, name, title, digits in PZ_QUANTITIES
    ]
    return markdown(["start, rate, momentum, batches", *cells], rows)


def epoch_one(frames: Frames) -> str:
    """How the runs of one epoch end, but for those of PZ."""
    runs = frames["epoch_one"]
    return _ends(runs[runs["loss"] != "pz"], {"loss": "loss", "lr": "rate", "seed": "seed"})


def epoch_one_pz(frames: Frames) -> str:
    """How the runs of one epoch under PZ end."""
    return _ends(where(frames["epoch_one"], loss="pz"), {"lr": "rate", "seed": "seed"})


def exact(frames: Frames) -> str:
    """How the runs of one cell end in `exact`, and the same in `fast`."""
    cell = frames["exact"][["loss", *CELL]].drop_duplicates()
    fast = pd.concat([frames["open_choices"], frames["piecewise_zero"]]).merge(cell)
    both = pd.concat([frames["exact"], fast])
    return _ends(where(both, batch_norm="running"), {"loss": "loss", "compute": "compute"})


def uniform_start(frames: Frames) -> str:
    """How the runs from uniform outputs end."""
    return _ends(frames["uniform_start"], {"loss": "loss", "seed": "seed"})


def long_run(frames: Frames) -> str:
    """How the losses stand after some epochs: over the classes, and the class favoured at initialisation."""
    classes = frames["long_run_classes"]
    shown = [epoch for epoch in LONG_EPOCHS if epoch in set(classes["epoch"])]
    rows = []
    for loss, seed in sorted(set(zip(classes["loss"], classes["seed"], strict=True)), key=_by_loss):
        run = where(classes, loss=loss, seed=seed)
        start = where(run, step=0).set_index("class")
        for epoch in shown:
            at = where(run, epoch=epoch).set_index("class")
            if at.empty:  # of a run that diverged
                continue
            favoured = at[at["rank"] == 1].iloc[0]
            rows.append(
                [
                    f"`{loss}`",
                    f"{seed}",
                    f"{epoch}",
                    _range(at["probability"]),
                    _range(at["accuracy"]),
                    f"{(at['accuracy'] < 0.5 / len(at)).sum()}",
                    *(f"{favoured[name]:.2f}" for name in CLASS_QUANTITIES),
                    f"{_rank_correlation(start, at):+.2f}",
                ]
            )
    head = ["loss", "seed", "epoch", "p̄_k", "Acc_k", "classes with Acc_k < 0.05", "favoured class: p̄",
            "favoured class: Acc", "favoured class: share of gradient", "favoured class: active fraction",
            "rank correlation with initialisation"]  # fmt: skip
    return markdown(head, rows)


def remedy(frames: Frames) -> str:
    """What the epochs of cross-entropy before PZ do, beside cross-entropy and PZ alone after as many epochs."""
    runs = remedies(frames)
    return _ends(runs, {"loss": "loss", "warmup_epochs": "epochs of CE first"})


def remedies(frames: Frames) -> pd.DataFrame:
    """The runs of the remedy, and CE and PZ of the long run as far as they."""
    runs, alone = frames["remedy"], frames["long_run"]
    alone = alone[alone["loss"].isin(["ce", "pz"]) & (alone["step"] <= runs["step"].max())]
    return pd.concat([alone, runs])


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
    rows = []
    for stage, some in runs.groupby("stage", sort=False):
        finished = some["status"].isin(FINAL)
        hours = (some["wall_seconds"] * some["threads"]).sum() / 3600
        precision, images, threads = (
            ", ".join(form(value) for value in some[column].dropna().unique())
            for column, form in (("precision", str), ("images", "{:,.0f}".format), ("threads", "{:.0f}".format))
        )
        longest = f"{some['steps'].max():,.0f}" if finished.any() else ""
        done = f"{finished.sum()} of {len(some)}"
        rows.append([f"`{stage}`", done, longest, images, precision, threads, f"{hours:.1f}"])
    hours = (runs["wall_seconds"] * runs["threads"]).sum() / 3600
    rows.append(["all", f"{runs['status'].isin(FINAL).sum()} of {len(runs)}", "", "", "", "", f"{hours:.1f}"])
    head = ["stage", "runs finished", "steps", "images a probe", "precision", "threads", "processor hours"]
    return markdown(head, rows)


def read(folder: Path) -> Frames:
    """The CSV files in a folder."""
    return {file.stem: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}


def fill(page: str, tables: Mapping[str, str]) -> str:
    """A page with each table between its markers; raises KeyError for a marker that has no table."""

    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]]}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def filled(page: Path, folder: Path) -> str:
    """The text of a page with its tables filled in from the CSV files in `folder`, where the figures are too."""
    frames = read(folder)
    tables = {name: tabulate(frames) for name, (needs, tabulate) in TABLES.items() if set(needs) <= set(frames)}
    to_figures = os.path.relpath(folder, page.parent)
    return fill(page.read_text(), {name: table.replace(FIGURE, to_figures) for name, table in tables.items()})


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def last_probe(runs: pd.DataFrame) -> pd.DataFrame:
    """The row of each run's last probe, with its `escape_step` as in docs/report.md; infinite if it has not escaped."""
    rows = []
    for _, run in runs.groupby([*KEYS.values(), "batch_norm"], sort=False):
        escape = first_for_good(run["step"].tolist(), (run["dominance"] < THRESHOLD).to_numpy())
        rows.append(run.iloc[-1:].assign(escape_step=math.inf if isinstance(escape, Censored) else float(escape)))
    return pd.concat(rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rank_correlation(start: pd.DataFrame, end: pd.DataFrame) -> float:
    """Spearman's, of the guesses at initialisation with p̄_k, over the classes that both are indexed by."""
    return -start["rank"].corr(end["probability"].rank())


def _by_loss(known: tuple[str, int]) -> tuple[int, int]:
    return LOSSES.index(known[0]), known[1]


def _range(values: "pd.Series[float]", digits: str = ".2f") -> str:
    """Median, and least to most."""
    return f"{values.median():{digits}} ({values.min():{digits}} to {values.max():{digits}})"


def _interval(values: "pd.Series[float]") -> str:
    """Mean ± half the width of its 95 % interval."""
    if values.empty:
        return "-"
    mean, half = mean_and_half_width(values.to_numpy(dtype=float)[:, None], np.ones((len(values), 1), dtype=bool))
    return f"{mean.item():.2f}" + (f" ± {half.item():.2f}" if len(values) > 1 else "")


def _a(frames: Frames) -> str:
    def above(mode: str, **values: object) -> str:
        largest = where(frames["initialisation"], batch_norm=mode, **values)["largest_p"]
        return f"{(largest > NEAR_ONE).sum()} of {len(largest)}"

    return (
        f"networks with a p̄_k above {NEAR_ONE:g}: `he` {above('running', init='he', scaling='standard')}, "
        f"`torchvision` and `replaced_conv1` on raw pixels {above('running', init='torchvision', scaling='raw')} and "
        f"{above('running', init='replaced_conv1', scaling='raw')}; with batch statistics {above('batch')}"
    )


def _b(frames: Frames) -> str:
    texts = []
    for start, runs in starts(frames).items():
        at = where(runs, batch_norm="running", lr=runs["lr"].max()).groupby("step")[list(SPREADS)].mean()
        shown = at[at.index.isin(FIRST_STEPS)]
        texts.append(f"{start} {_listed(f'{p:.2f} ({accuracy:.2f})' for p, accuracy in shown.itertuples(index=False))}")
    steps = _listed(f"{step}" for step in shown.index)
    return f"mean distance of p̄_k (Acc_k) from 0.1 after {steps} batches: {'; '.join(texts)}"


def _at(frames: Frames, loss: str, epoch: int) -> pd.DataFrame:
    """The classes of a long run, the one with the least seed, after some epochs; the favoured one first."""
    classes = where(frames["long_run_classes"], loss=loss, epoch=epoch)
    return where(classes, seed=classes["seed"].min()).sort_values("rank")


def _c(frames: Frames) -> str:
    epochs = set(where(frames["long_run_classes"], loss="ce")["epoch"])
    shown = [epoch for epoch in LONG_EPOCHS if epoch in epochs and epoch] or [max(epochs)]
    ends = [_at(frames, "ce", epoch) for epoch in shown]
    first, last = (end.set_index("class")[["probability", "accuracy"]] for end in (ends[0], ends[-1]))
    higher = (last > first).sum()
    return (
        f"after {_listed(f'{epoch:g}' for epoch in shown)} epochs, median and range over the classes: p̄_k "
        f"{', '.join(_range(end['probability']) for end in ends)}; Acc_k "
        f"{', '.join(_range(end['accuracy']) for end in ends)}; higher at the end than after epoch one: p̄_k of "
        f"{higher['probability']}, Acc_k of {higher['accuracy']} of {len(last)} classes"
    )


def _d(frames: Frames) -> str:
    end = where(last_probe(frames["epoch_one"]), batch_norm="running")
    means = end.groupby(["loss", "lr"])[["accuracy", "mean_p"]].mean()
    losses = {"CE": "ce", "p_y^γ held constant": "bl_detached"}
    texts = []
    for title, quantity in (("accuracy", "accuracy"), ("mean p̄_k", "mean_p")):
        values = [
            f"{name} {_listed(f'{value:.2f}' for value in means.loc[loss][quantity])}"
            for name, loss in losses.items()
            if loss in means.index
        ]
        texts.append(f"{title} {', '.join(values)}")
    texts.append(f"as written, least dominance of a run {where(end, loss='bl')['dominance'].min():.2f}")
    rates = _listed(f"{lr:g}" for lr in sorted(end["lr"].unique()))
    momentum, seeds = end["momentum"].iloc[0], end["seed"].nunique()
    return f"after epoch one, momentum {momentum:g}, rates {rates}, means of {seeds} seeds: {'; '.join(texts)}"


def _g(frames: Frames) -> str:
    parts = []
    classes = frames["long_run_classes"]
    last = classes["epoch"].max()
    for loss in ("ce", "pz"):
        if where(classes, loss=loss, epoch=last).empty:  # not finished, or diverged
            continue
        start, end = (_at(frames, loss, epoch).set_index("class") for epoch in (0, last))
        parts.append(
            f"{loss.upper()}: p̄ of the favoured class {end['probability'].iloc[0]:.2f}, of the others "
            f"{_range(end['probability'].iloc[1:])}; classes with Acc_k below 0.05: {(end['accuracy'] < 0.05).sum()}; "
            f"rank correlation of p̄_k with the guesses at initialisation {_rank_correlation(start, end):+.2f}"
        )
    return f"after {last:g} epochs, " + "; ".join(parts)


def _alone(end: pd.DataFrame) -> "pd.Series[bool]":
    return end["dominance"] >= ALONE


def _leads(end: pd.DataFrame) -> "pd.Series[bool]":
    return end["dominant"] == end["favoured"]


def _highest(end: pd.DataFrame) -> "pd.Series[bool]":
    return end["favoured_p"] > end["others_p"]


PZ_COUNTS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    f"one class has {ALONE:.0%} of the guesses or more": _alone,
    "the favoured class has the most guesses": _leads,
    "it has the highest p̄": _highest,
    f"it has a p̄ above {ALIVE:g}": lambda end: end["favoured_p"] > ALIVE,
    f"it has a p̄ below {GONE:g}": lambda end: end["favoured_p"] < GONE,
}


def _count(end: pd.DataFrame, holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> str:
    """In how many of some runs something holds at the end, in evaluation mode."""
    held = holds(where(end, batch_norm="running"))
    return f"{held.sum()} of {len(held)}"


def _at_the_ends(frames: Frames, title: str, *parts: Callable[[pd.DataFrame], str]) -> str:
    """What the parts give for the ends of the runs of each cell, behind a title that names them."""
    texts = [f"({cell}) {', '.join(part(end) for part in parts)}" for cell, end in pz_cells(frames).items()]
    return f"{title}, by start, rate, momentum and batches: {'; '.join(texts)}"


def _listed(values: Iterable[str]) -> str:
    *some, last = values
    return f"{', '.join(some)} and {last}" if some else last


def _e(frames: Frames) -> str:
    return _at_the_ends(
        frames,
        "seeds whose favoured class has the highest p̄, and with one class alone",
        lambda end: _count(end, _highest),
        lambda end: _count(end, _alone),
    )


def _f(frames: Frames) -> str:
    return _at_the_ends(
        frames, "seeds whose favoured class is the most guessed at the end", lambda end: _count(end, _leads)
    )


def _h(frames: Frames) -> str:
    def median(name: str) -> Callable[[pd.DataFrame], str]:
        return lambda end: f"{where(end, batch_norm='batch')[name].median():.2g}"

    return _at_the_ends(
        frames,
        "by batch statistics, medians of the share of the class that they favour, and of the gradient's mean norm",
        median("favoured_share"),
        median("gradient"),
    )


VERDICTS = (
    Verdict(
        "**A.** At initialisation one class has p̄ near 1, the others near 0",
        "reproduced only in evaluation mode, where logits are large (`he`, or raw pixels); never with batch statistics",
        ("initialisation",),
        _a,
        "initialisation",
    ),
    Verdict(
        "**B.** In the first batches all p̄_k move together and settle near 0.1; accuracies lag",
        "reproduced only at small rates (lr/(1 - momentum) of 0.001 or less); the accuracies lag from "
        "`replaced_conv1`, not from `he`; batch norm's running statistics do most of it, without learning",
        ("first_batches",),
        _b,
        "first_batches",
    ),
    Verdict(
        "**C.** CE: after epoch one the p̄_k rise together, accuracies with them",
        OPEN,
        ("long_run_classes",),
        _c,
        "long_run",
    ),
    Verdict(
        "**D.** BL (γ = 0.7): as CE but slower, accuracies lagging",
        "reproduced only with the factor p_y^γ held constant for the gradient, at the rate 0.0001; at larger ones its "
        "p̄_k are ahead of those of CE, and as equation (2) is written it collapses onto one class",
        ("epoch_one",),
        _d,
        "epoch_one",
    ),
    Verdict(
        "**E.** PZ: the favoured class stays above all others and rises again, the others fall; its accuracy stays "
        "perfect, the others' poor",
        "reproduced only from `replaced_conv1` on raw pixels at 0.01 without momentum, in two seeds of ten; else the "
        "favoured class shares with a few others, or one class stands alone that is seldom the favoured one",
        ("favoured_class", "small_rate"),
        _e,
        "favoured_conv1",
    ),
    Verdict(
        "**F.** The initially favoured class is the one that dominates under PZ",
        "reproduced only where E is, in two seeds of ten; from `he` the favoured class leads about as often as any "
        "class would by chance, though it survives more often",
        ("favoured_class", "small_rate"),
        _f,
        "favoured_conv1",
    ),
    Verdict(
        "**G.** Impacts can persist to the end of training",
        OPEN,
        ("long_run_classes",),
        _g,
        "long_run",
    ),
    Verdict(
        "**H.** Under PZ training is almost entirely driven by the favoured class",
        "reproduced only where one class stands alone, which has all of a gradient that has then vanished; else the "
        "classes that survive share it",
        ("favoured_class", "small_rate"),
        _h,
        "piecewise_zero",
    ),
)
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Frames], str]]] = {
    "verdicts": (("runs",), verdicts),
    "stages": (("runs",), stages),
    "initialisation": (("initialisation",), initialisation),
    "training_batches": (("initialisation", "training_batches"), training_batches),
    "features": (("features",), features),
    "first_batches": (("first_batches",), first_batches),
    "favoured_class": (("favoured_class", "small_rate", "features", "training_batches"), favoured_class),
    "favoured_conv1": (("favoured_conv1",), favoured_conv1),
    "small_rate": (("small_rate", "small_rate_classes"), small_rate),
    "piecewise_zero": (("favoured_class", "small_rate"), piecewise_zero),
    "epoch_one": (("epoch_one",), epoch_one),
    "epoch_one_pz": (("epoch_one",), epoch_one_pz),
    "exact": (("open_choices", "piecewise_zero", "exact"), exact),
    "uniform_start": (("uniform_start",), uniform_start),
    "long_run": (("long_run_classes",), long_run),
    "remedy": (("long_run", "remedy"), remedy),
}  # and the CSV files that each is made of
