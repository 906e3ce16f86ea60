"""The tables of docs/reproduction.md, from the CSV files of its stages."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from igb.folders import FINAL
from igb.report.escape import THRESHOLD, Censored, first_for_good
from igb.report.settings import mean_and_half_width
from reproduction.collect import CLASS_QUANTITIES, KEYS

SCALINGS = ("standard", "unit", "symmetric", "raw")
INITS = ("he", "torchvision", "replaced_conv1", "torch_default")
MODES = {"running": "running statistics", "batch": "batch statistics"}
NEAR_ONE = 0.9  # what "near 1" is taken to mean
CELLS = "at the small rate (290 batches, an epoch), at 0.001 and at 0.01 with momentum 0.9"
ALIVE = 0.1  # p̄_k of a class that has not been given up
FIRST_STEPS = (0, 1, 2, 5, 10, 20, 100)
FIRST_QUANTITIES = {
    "largest_p": "largest p̄_k",
    "favoured_p": "p̄ of the favoured class",
    "p_spread": "mean distance of p̄_k from 0.1",
    "accuracy_spread": "mean distance of Acc_k from 0.1",
}
LOSSES = ("ce", "bl_detached", "bl", "pz")
PZ_QUANTITIES = (
    ("running", "guessed", "classes guessed"),
    ("running", "dominance", "dominance"),
    ("running", "favoured_p", "p̄ of the favoured class"),
    ("running", "others_p", "largest p̄_k of the others"),
    ("running", "favoured_accuracy", "Acc of the favoured class"),
    ("running", "dominant_accuracy", "Acc of the class most guessed"),
    ("batch", "active", "batch statistics: active fraction"),
    ("batch", "gradient", "batch statistics: mean norm of the gradient"),
    ("batch", "favoured_share", "batch statistics: share of the favoured class in it"),
    ("batch", "dominant_share", "batch statistics: share of the class most guessed"),
)
LONG_EPOCHS = (0, 1, 5, 10, 20)
END_QUANTITIES = {
    "accuracy": "accuracy",
    "worst_accuracy": "worst Acc_k",
    "favoured_accuracy": "Acc of the favoured class",
    "favoured_p": "p̄ of the favoured class",
    "others_p": "largest other p̄_k",
    "active": "active fraction",
    "favoured_share": "share of gradient: the favoured class",
    "dominant_share": "share of gradient: the class most guessed",
}
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
    """The table of claims, as far as their runs are there."""
    rows = [
        [one.claim, one.verdict, one.number(frames), f"[figure]({FIGURE}/{one.figure}.png)"]
        for one in VERDICTS
        if set(one.needs) <= set(frames)
    ]
    return markdown(["claim", "verdict", "number", ""], rows)


def initialisation(frames: Frames) -> str:
    """Largest p̄_k and dominance at initialisation: median and range over the seeds."""
    runs = frames["initialisation"]
    rows = []
    for init in INITS:
        for scaling in SCALINGS:
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
    means = frames["features"].groupby(["init", "batch_norm"])[columns].mean()
    rows = [
        [f"`{init}`", title, *(f"{value:.3g}" for value in means.loc[(init, mode)])]
        for init in INITS
        for mode, title in MODES.items()
    ]
    head = ["init", "normalised by", "cosine", "spread of logits over classes", "over images",
            "BL: pushed the wrong way", "PZ: with a gradient"]  # fmt: skip
    return markdown(head, rows)


def first_batches(frames: Frames) -> str:
    """Mean and 95 % interval over seeds after some batches."""
    runs = frames["first_batches"]
    rows = []
    for (lr, mode), some in runs.groupby(["lr", "batch_norm"], sort=False):
        for quantity, title in FIRST_QUANTITIES.items():
            values = [_interval(some.loc[some["step"] == step, quantity]) for step in FIRST_STEPS]
            rows.append([f"{lr:g}", str(mode), title, *values])
    return markdown(["learning rate", "statistics", "", *(f"after {step}" for step in FIRST_STEPS)], rows)


def pz_cells(frames: Frames) -> dict[str, pd.DataFrame]:
    """The last probes of PZ's runs at each rate, both modes; those at the small rate also after as many batches."""
    small, others = frames["small_rate"], frames["favoured_class"]
    parts = [small[small["step"] <= others["step"].max()], small]
    parts += [some for _, some in others.groupby(["lr", "momentum"])]
    cells = {}
    for end in map(last_probe, parts):
        rate = f"rate {end['lr'].iloc[0]:g}, momentum {end['momentum'].iloc[0]:g}"
        cells[f"{rate}, {end['step'].max():,.0f} batches"] = end
    return cells


def favoured_class(frames: Frames) -> str:
    """The class favoured in either mode and the one most guessed at the end under PZ, seed by seed, and the hits."""
    cells = {
        title: {mode: where(end, batch_norm=mode).set_index("seed") for mode in MODES}
        for title, end in pz_cells(frames).items()
    }
    first = next(iter(cells.values()))
    pushed = where(frames["features"], init="he", batch_norm="batch").set_index("seed")["pz_pushed"]
    classes = {f"favoured by {title}": first[mode]["favoured"] for mode, title in MODES.items()}
    classes["pushed up most by PZ, batch statistics"] = pushed.reindex(first["running"].index)
    rows = []
    for seed in first["running"].index:
        ends = [modes["running"].reindex([seed]).iloc[0] for modes in cells.values()]
        of_seed = [f"{classes_of[seed]:.0f}" for classes_of in classes.values()]
        rows.append([f"{seed}", *of_seed, *(f"{end['dominant']:.0f} ({end['dominance']:.2f})" for end in ends)])
    blank = [""] * len(classes)
    for mode, title in MODES.items():
        ends = [modes[mode] for modes in cells.values()]
        hits = [f"{(end['dominant'] == end['favoured']).sum()} of {len(end)}" for end in ends]
        alive = [f"{(end['favoured_p'] > ALIVE).sum()} of {len(end)}" for end in ends]
        rows.append([f"the favoured class is the most guessed, both by {title}", *blank, *hits])
        rows.append([f"it has a p̄ above {ALIVE:g}, both by {title}", *blank, *alive])
    return markdown(["seed", *classes, *(f"most guessed: {title}" for title in cells)], rows)


def piecewise_zero(frames: Frames) -> str:
    """How PZ leaves the classes, and what drives it, at each rate: median and range over the seeds."""
    cells = pz_cells(frames)
    rows = [
        [title, *(_range(where(end, batch_norm=mode)[name]) for end in cells.values())]
        for mode, name, title in PZ_QUANTITIES
    ]
    return markdown(["", *cells], rows)


def epoch_one(frames: Frames) -> str:
    """How the runs of one epoch end, but for those of PZ."""
    runs = frames["epoch_one"]
    return _ends(runs[runs["loss"] != "pz"], {"loss": "loss", "lr": "rate", "seed": "seed"})


def epoch_one_pz(frames: Frames) -> str:
    """How the runs of one epoch under PZ end."""
    return _ends(where(frames["epoch_one"], loss="pz"), {"lr": "rate", "seed": "seed"})


def exact(frames: Frames) -> str:
    """How the runs in float32 and the same of epoch_one stand after as many batches."""
    runs = frames["exact"]
    same = frames["epoch_one"].merge(runs[["loss", "lr", "seed"]].drop_duplicates())
    both = pd.concat([runs, same[same["step"] <= runs["step"].max()]])
    return _ends(both, {"loss": "loss", "compute": "compute"})


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
            ranks = -start["rank"].rank().corr(at["probability"].rank())
            rows.append(
                [
                    f"`{loss}`",
                    f"{seed}",
                    f"{epoch}",
                    _range(at["probability"]),
                    _range(at["accuracy"]),
                    f"{(at['accuracy'] < 0.5 / len(at)).sum()}",
                    *(f"{favoured[name]:.2f}" for name in CLASS_QUANTITIES),
                    f"{ranks:+.2f}",
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


def _by_loss(known: tuple[str, int]) -> tuple[int, int]:
    return LOSSES.index(known[0]), known[1]


def _range(values: "pd.Series[float]") -> str:
    """Median, and least to most."""
    return f"{values.median():.2f} ({values.min():.2f} to {values.max():.2f})"


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
    runs = where(frames["first_batches"], batch_norm="running")
    none, default = (where(runs, lr=lr)[["step", "p_spread", "accuracy_spread"]] for lr in sorted(runs["lr"].unique()))
    start, end, still = (
        where(rate, step=step).mean()
        for rate, step in ((default, 0), (default, runs["step"].max()), (none, runs["step"].max()))
    )
    return (
        f"mean distance of p̄_k from 0.1: {start['p_spread']:.3f} at initialisation, {end['p_spread']:.3f} after "
        f"{end['step']:.0f} batches, {still['p_spread']:.3f} if no weight moves; "
        f"of Acc_k {start['accuracy_spread']:.3f}, {end['accuracy_spread']:.3f}, {still['accuracy_spread']:.3f}"
    )


def _medians(frames: Frames, mode: str, name: str) -> str:
    """Of the last probe of each cell of `pz_cells`."""
    values = [where(end, batch_norm=mode)[name].median() for end in pz_cells(frames).values()]
    return ", ".join(f"{value:.2g}" for value in values)


def _counts(frames: Frames, mode: str, holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> str:
    ends = [where(end, batch_norm=mode) for end in pz_cells(frames).values()]
    return ", ".join(f"{holds(end).sum()}" for end in ends) + f" of {len(ends[0])}"


def _e(frames: Frames) -> str:
    return (
        f"{CELLS}, medians of the seeds: p̄ of the favoured class {_medians(frames, 'running', 'favoured_p')}; largest "
        f"of the others {_medians(frames, 'running', 'others_p')}; classes guessed "
        f"{_medians(frames, 'running', 'guessed')}"
    )


def _f(frames: Frames) -> str:
    counts = [
        f"most guessed in {_counts(frames, mode, lambda end: end['dominant'] == end['favoured'])} seeds, p̄ above "
        f"{ALIVE:g} in {_counts(frames, mode, lambda end: end['favoured_p'] > ALIVE)}"
        for mode in MODES
    ]
    return f"{CELLS}: {counts[0]}; both by batch statistics: {counts[1]}"


def _h(frames: Frames) -> str:
    return (
        f"{CELLS}, by batch statistics, medians: active fraction {_medians(frames, 'batch', 'active')}; mean gradient "
        f"{_medians(frames, 'batch', 'gradient')}; share of the favoured class "
        f"{_medians(frames, 'batch', 'favoured_share')}"
    )


VERDICTS = (
    Verdict(
        "**A.** At initialisation one class has p̄ near 1, the others near 0",
        "reproduced in evaluation mode where logits are large (`he`, or raw pixels); never with batch statistics",
        ("initialisation",),
        _a,
        "initialisation",
    ),
    Verdict(
        "**B.** In the first batches all p̄_k move together and settle near 0.1; accuracies lag",
        "reproduced; but batch norm's running statistics do most of it, without learning",
        ("first_batches",),
        _b,
        "first_batches",
    ),
    Verdict(
        "**E.** PZ: the favoured class stays above all others and rises again, the others fall; its accuracy stays "
        "perfect, the others' poor",
        "not reproduced as a whole: at the smallest rate it falls and rises again, with two to four others, while the "
        "rest fall to 0; at the highest one class has everything, which is seldom the favoured one",
        ("favoured_class", "small_rate"),
        _e,
        "small_rate",
    ),
    Verdict(
        "**F.** The initially favoured class is the one that dominates under PZ",
        "not reproduced for the class of Figure 1, which mostly survives at the smallest rate, but seldom leads; the "
        "class favoured by batch statistics leads in up to four of ten",
        ("favoured_class", "small_rate"),
        _f,
        "small_rate",
    ),
    Verdict(
        "**H.** Under PZ training is almost entirely driven by the favoured class",
        "not reproduced: at small rates the classes that survive share the gradient; where one has won, it has all of "
        "a gradient that has vanished",
        ("favoured_class", "small_rate", "epoch_one"),
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
    "favoured_class": (("favoured_class", "small_rate", "features"), favoured_class),
    "piecewise_zero": (("favoured_class", "small_rate"), piecewise_zero),
    "epoch_one": (("epoch_one",), epoch_one),
    "epoch_one_pz": (("epoch_one",), epoch_one_pz),
    "exact": (("epoch_one", "exact"), exact),
    "uniform_start": (("uniform_start",), uniform_start),
    "long_run": (("long_run_classes",), long_run),
    "remedy": (("long_run", "remedy"), remedy),
}  # and the CSV files that each is made of
