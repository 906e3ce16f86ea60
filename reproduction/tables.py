"""The tables of docs/reproduction.md, from the CSV files of its stages."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from igb._checks import InputError
from igb.folder.schema import FINAL
from igb.report.metrics import THRESHOLD, Censored, first_for_good
from igb.report.prediction import dominance_of
from igb.report.settings import mean_and_half_width
from reproduction.collect import CLASS_QUANTITIES, KEYS

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
OPEN = "open: its runs are not finished"
CELL = ["init", "scaling", "lr", "momentum", "seed"]
FIGURE = "{folder}"  # stands for the folder of the figures until a page is filled in

Frames = Mapping[str, pd.DataFrame]  # the CSV files by their names


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: `number` gives what decides it from the CSV files `needs`, None if runs are missing."""

    claim: str
    verdict: str
    needs: tuple[str, ...]
    number: Callable[[Frames], str | None]
    figure: str


def verdicts(frames: Frames) -> str:
    """The table of claims and what became of them; open are those whose runs are not there."""
    rows = []
    for one, number in _decided(frames):
        rows.append([one.claim, *([one.verdict, f"[figure]({FIGURE}/{one.figure}.png)"] if number else [OPEN, ""])])
    return markdown(["claim", "verdict", ""], rows)


def deciding(frames: Frames) -> str:
    """The table of the numbers that decide them."""
    return markdown(["claim", "decided by"], [[one.claim[:6], number or OPEN] for one, number in _decided(frames)])


def _decided(frames: Frames) -> list[tuple[Verdict, str | None]]:
    return [(one, one.number(frames) if set(one.needs) <= set(frames) else None) for one in VERDICTS]


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
    columns = ["cosine", "class_spread", "image_spread", "ratio", "dominance", "bl_wrong_way", "pz_active"]
    networks = _drifts(frames["features"])
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
                values = [_interval(where(some, step=step)[quantity]) for step in FIRST_STEPS]
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
        [title, *(f"{_held(runs, holds):.1f} of {runs['seed'].nunique()}" for runs in cells.values())]
        for title, holds in PZ_COUNTS.items()
    ]
    guessed = [_range(_last_probes(runs).groupby("seed")["guessed"].mean(), ".1f") for runs in cells.values()]
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
    rows = [[title, *(_range(of(runs), ".2g") for runs in cells.values())] for title, of in medians.items()]
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
                    _range(at["probability"]),
                    _range(at["accuracy"]),
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


def read(folder: Path) -> Frames:
    """The CSV files in a folder."""
    return {file.stem: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}


def fill(page: str, tables: Mapping[str, str], numbers: Mapping[str, str] | None = None) -> str:
    """A page with each table, and each number in its text, between its markers.

    `<!-- table: NAME -->` and `<!-- end -->` are lines; `<!--=NAME-->` and `<!--/-->` stand within a line. Raises
    KeyError for a marker that has no table, or no number where there are some.
    """

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]]}\n<!-- end -->"

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{(numbers or {})[found[2]]}<!--/-->"

    page = re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", table, page, flags=re.DOTALL)
    return re.sub(r"(<!--=(\w+)-->).*?<!--/-->", number, page, flags=re.DOTALL)


def filled(page: Path, folder: Path) -> str:
    """The text of a page with its tables filled in from the CSV files in `folder`, where the figures are too."""
    frames = read(folder)
    tables = {name: tabulate(frames) for name, (needs, tabulate) in TABLES.items() if set(needs) <= set(frames)}
    to_figures = os.path.relpath(folder, page.parent)
    tables = {name: table.replace(FIGURE, to_figures) for name, table in tables.items()}
    return fill(page.read_text(encoding="utf-8"), tables, numbers(frames))


def numbers(frames: Frames) -> dict[str, str]:
    """The numbers in the text of docs/reproduction.md."""
    if not {"features", "initialisation"} <= set(frames):
        return {}
    start, networks = where(frames["initialisation"], scaling="standard"), _drifts(frames["features"])
    found: dict[str, str] = {}
    for mode in MODES:
        of_mode = where(networks, batch_norm=mode).groupby("init")[["ratio", "dominance"]].mean()
        dominance = where(start, batch_norm=mode).groupby("init")["dominance"].mean()
        found |= {
            f"drift_{mode}": _span(of_mode["ratio"], ".2g"),
            f"dominance_theory_{mode}": _span(of_mode["dominance"]),
            f"dominance_{mode}": _span(dominance),
        }
    return found


def _drifts(networks: pd.DataFrame) -> pd.DataFrame:
    """The networks of features.csv with their drift `ratio` and the `dominance` that the theory gives for it."""
    ratio = (networks["class_spread"] / networks["image_spread"]) ** 2
    return networks.assign(ratio=ratio, dominance=[dominance_of(one, CLASSES) for one in ratio])


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def last_probe(runs: pd.DataFrame) -> pd.DataFrame:
    """The row of each run's last probe, with its `escape_step` as in docs/report.md; infinite if it has not escaped.

    Raises InputError if there are no runs.
    """
    if runs.empty:
        raise InputError("a stage has none of the runs of a table, which needs those of its description")
    rows = []
    known = [name for name in KEYS.values() if name in runs]
    for _, run in runs.groupby([*known, "batch_norm"], sort=False):
        escape = first_for_good(run["step"].tolist(), (run["dominance"] < THRESHOLD).to_numpy())
        rows.append(run.iloc[-1:].assign(escape_step=math.inf if isinstance(escape, Censored) else float(escape)))
    return pd.concat(rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _span(values: "pd.Series[float]", digits: str = ".2f") -> str:
    """Least to most; one number where they are the same."""
    low, high = (f"{bound:{digits}}" for bound in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


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
        values = (f"{p:.2f} ({accuracy:.2f})" for p, accuracy in at[at.index.isin((0, 10))].itertuples(index=False))
        texts.append(f"{start} {_listed(values)}")
    return f"mean distance of p̄_k (Acc_k) from 0.1 after 0 and 10 batches: {'; '.join(texts)}"


def _least_seed(classes: pd.DataFrame) -> pd.DataFrame:
    """The runs of one seed, the least, as in the figure."""
    return where(classes, seed=classes["seed"].min())


def _c(frames: Frames) -> str | None:
    run = where(_least_seed(frames["long_run_classes"]), loss="ce")
    if run.empty:
        return None
    last = run["epoch"].max()
    first, end = (
        where(run, epoch=epoch).set_index("class")[["probability", "accuracy"]] for epoch in (min(1, last), last)
    )
    higher = (end > first).sum()
    means = [f"{one[0]:.2f} and {one[1]:.2f}" for one in zip(first.mean(), end.mean(), strict=True)]
    return (
        f"mean over the classes after {min(1, last):g} and {last:g} epochs: p̄_k {means[0]}, Acc_k {means[1]}; higher "
        f"at the end: p̄_k of {higher['probability']}, Acc_k of {higher['accuracy']} of {len(end)} classes"
    )


def _d(frames: Frames) -> str | None:
    classes = _least_seed(frames["long_run_classes"])
    epoch = classes["epoch"].max() // 2
    later = where(classes, epoch=epoch).groupby("loss")[["accuracy", "probability"]].mean()
    if not {"ce", "bl_detached"} <= set(later.index):
        return None

    def compared(means: pd.DataFrame) -> str:
        accuracy, p = (f"{means.loc['bl_detached', one]:.2f} (CE {means.loc['ce', one]:.2f})" for one in means.columns)
        return f"mean Acc_k {accuracy}, p̄_k {p}"

    end = where(last_probe(frames["epoch_one"]), batch_norm="running")
    lr, momentum = end["lr"].min(), end["momentum"].iloc[0]
    first = where(end, lr=lr).groupby("loss")[["accuracy", "mean_p"]].mean().reindex(LOSSES)
    return (
        f"p_y^γ held constant, after epoch one at {lr:g} with momentum {momentum:g}: {compared(first)}; after "
        f"{epoch:g} epochs in the run of C: {compared(later)}; as written, least dominance after epoch one at any "
        f"rate: {where(end, loss='bl')['dominance'].min():.2f}"
    )


def _g(frames: Frames) -> str | None:
    parts = []
    classes = _least_seed(frames["long_run_classes"])
    last = classes["epoch"].max()
    for loss in ("ce", "pz"):
        end = where(classes, loss=loss, epoch=last)
        if end.empty:
            return None
        favoured = end["rank"] == 1
        parts.append(
            f"{loss.upper()}: p̄ of the favoured class {end.loc[favoured, 'probability'].item():.2f}, of the others "
            f"{_range(end.loc[~favoured, 'probability'])}; mean Acc_k {end['accuracy'].mean():.2f}"
        )
    return f"after {last:g} epochs, " + ". ".join(parts)


def _leads(end: pd.DataFrame) -> "pd.Series[bool]":
    return end["dominant"] == end["favoured"]


def _highest(end: pd.DataFrame) -> "pd.Series[bool]":
    return end["favoured_p"] > end["others_p"]


PZ_COUNTS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    f"one class has {ALONE:.0%} of the guesses or more": lambda runs: runs["dominance"] >= ALONE,
    "the favoured class has the most guesses": _leads,
    "the class favoured by batch statistics has the most guesses": lambda runs: (
        runs["dominant"] == runs["favoured_by_batch"]
    ),
    "the favoured class has the highest p̄": _highest,
    f"it has a p̄ above {ALIVE:g}": lambda runs: runs["favoured_p"] > ALIVE,
}


def _last_probes(runs: pd.DataFrame) -> pd.DataFrame:
    """The last probes of each run in evaluation mode, and the class that its batch statistics favoured at first."""
    by_batch = where(runs, batch_norm="batch", step=0).set_index("seed")["favoured"]
    last = where(runs, batch_norm="running").groupby("seed").tail(LAST)
    return last.assign(favoured_by_batch=last["seed"].map(by_batch))


def _held(runs: pd.DataFrame, holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> float:
    """In how many of some runs something holds, on average over their last probes."""
    last = _last_probes(runs)
    return float(holds(last).groupby(last["seed"]).mean().sum())


def _listed(values: Iterable[str]) -> str:
    *some, last = values
    return f"{', '.join(some)} and {last}" if some else last


def _e(frames: Frames) -> str:
    def seeds(runs: pd.DataFrame) -> "pd.Series[int]":
        running = where(runs, batch_norm="running")
        above = _highest(running).groupby(running["seed"])
        return pd.Series([above.all().sum(), above.apply(lambda one: one.tail(LAST).all()).sum()])

    cells = pz_cells(frames)
    throughout, at_the_end = (_listed(map(str, counts)) for counts in zip(*map(seeds, cells.values()), strict=True))
    return (
        f"seeds whose favoured class has the highest p̄ at every probe, in the settings of section E: {throughout} of "
        f"{_seeds(cells)}; at each of the last {LAST} probes: {at_the_end}"
    )


def _f(frames: Frames) -> str:
    cells = pz_cells(frames)
    leading = _listed(f"{_held(runs, _leads):.1f}" for runs in cells.values())
    return (
        f"seeds whose favoured class is the most guessed, on average over the last {LAST} probes, in the settings of "
        f"section E: {leading} of {_seeds(cells)}; by chance {_seeds(cells) / CLASSES:g}"
    )


def _h(frames: Frames) -> str:
    shares = [
        share_over_training(where(runs, batch_norm="batch"), "favoured_share") for runs in pz_cells(frames).values()
    ]
    return (
        "share of the class favoured by batch statistics in the gradients of all batches, in the settings of section E"
        f": medians {_listed(f'{share.median():.2f}' for share in shares)}, at most {max(map(max, shares)):.2f}"
    )


def _seeds(cells: Mapping[str, pd.DataFrame]) -> int:
    return max(runs["seed"].nunique() for runs in cells.values())


VERDICTS = (
    Verdict(
        "**A.** At initialisation one class has p̄ near 1, the others near 0",
        "**In part**: in evaluation mode, where logits are large (`he`; torchvision's rule on raw pixels); never by "
        "the batch statistics that training uses",
        ("initialisation",),
        _a,
        "initialisation",
    ),
    Verdict(
        "**B.** In the first batches all p̄_k move together and settle near 0.1; accuracies lag",
        "**In part**: at small rates; running statistics do most of it, without learning; accuracies lag from "
        "`replaced_conv1`, little from `he`",
        ("first_batches", "replaced_conv1"),
        _b,
        "first_batches",
    ),
    Verdict(
        "**C.** CE: after epoch one the p̄_k rise together, accuracies with them",
        "**Seen once**: for the mean over classes; single classes rise and fall apart, each with its accuracy",
        ("long_run_classes",),
        _c,
        "long_run",
    ),
    Verdict(
        "**D.** BL (γ = 0.7): as CE but slower, accuracies lagging",
        "**In part**: with p_y^γ held constant, at small rates; as equation (2) is written it collapses onto one class",
        ("epoch_one", "long_run_classes"),
        _d,
        "epoch_one",
    ),
    Verdict(
        "**E.** PZ: the favoured class stays above all others and rises again, the others fall; its accuracy stays "
        "perfect, the others' poor",
        "**Seen once**, from `replaced_conv1` at 0.01; else a few classes share, or one stands alone that is seldom "
        "the favoured one",
        PZ_NEEDS,
        _e,
        "favoured_conv1",
    ),
    Verdict(
        "**F.** The initially favoured class is the one that dominates under PZ",
        "**No**: it leads as often as chance would have it, as far as ten seeds can tell; at a small rate it survives "
        "more often",
        PZ_NEEDS,
        _f,
        "favoured_conv1",
    ),
    Verdict(
        "**G.** Impacts can persist to the end of training",
        "**Seen once**, under PZ, in the run in which E holds, and there under BL as written; not under CE",
        ("long_run_classes",),
        _g,
        "long_run",
    ),
    Verdict(
        "**H.** Under PZ training is almost entirely driven by the favoured class",
        "**No**: while the network changes several classes share the gradient; a class that stands alone has what "
        "little is left",
        PZ_NEEDS,
        _h,
        "piecewise_zero",
    ),
)
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Frames], str]]] = {
    "verdicts": (("runs",), verdicts),
    "deciding": (("runs",), deciding),
    "stages": (("runs",), stages),
    "initialisation": (("initialisation",), initialisation),
    "training_batches": (("initialisation", "training_batches"), training_batches),
    "features": (("features",), features),
    "first_batches": (("first_batches", "replaced_conv1"), first_batches),
    "piecewise_zero": (PZ_NEEDS, piecewise_zero),
    "driving": (PZ_NEEDS, driving),
    "epoch_one": (("epoch_one",), epoch_one),
    "exact": (("open_choices", "piecewise_zero", "exact"), exact),
    "uniform_start": (("uniform_start",), uniform_start),
    "long_run": (("long_run_classes",), long_run),
    "remedy": (("long_run", "remedy"), remedy),
}  # and the CSV files that each is made of
