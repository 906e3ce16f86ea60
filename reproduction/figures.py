"""The figures of docs/reproduction.md, from the CSV files of its stages.

`python -m reproduction.figures docs/reproduction docs/reproduction.md README.md` draws them into that folder and fills
in the tables of the pages, each between the line `<!-- table: NAME -->` and the next `<!-- end -->`.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from igb._checks import InputError
from igb._plots import COLOURS, class_colours
from igb.report.figures import DASHES, FIGURE_2, epoch_axis, epochs_of
from igb.report.figures import STYLE as REPORT_STYLE
from igb.report.settings import mean_and_half_width
from reproduction.collect import CLASS_QUANTITIES
from reproduction.common import Frames, last_probe, one_line_exit, read, where
from reproduction.pages import filled
from reproduction.tables import (
    CONV1_CELL,
    INITS,
    LOSSES,
    MODES,
    NEAR_ONE,
    PZ_NEEDS,
    SCALINGS,
    pz_cells,
    remedies,
    starts,
)

LONGEST = 300  # steps of a run of the grid
MAPS = {
    "escape_step": "escape step",
    "dominance": "dominance",
    "guessed": "classes guessed",
    "accuracy": "mean accuracy",
}
INITIAL = {"largest_p": r"largest $\bar{p}_k$", "dominance": "dominance"}
FIRST_QUANTITIES = {"p_spread": r"$\bar{p}_k$", "accuracy_spread": r"$\mathrm{Acc}_k$"}
DRIVING = {
    "favoured_share": "share of the class\nin the gradient",
    "active": "active fraction",
    "gradient": "mean gradient norm",
}
QUANTITIES = {"probability": r"$\bar{p}_k$", "accuracy": r"$\mathrm{Acc}_k$"}
INIT = 0.2  # where initialisation is on an axis of batches
SMALLEST = 2  # learning rates whose classes are shown
STYLE = REPORT_STYLE | {"text.parse_math": True}

Choices = Mapping[str, Mapping[str, object]]  # by title, the values that choose what is shown
Panel = tuple[str, Mapping[str, object]]  # its title, and the values that choose what it shows
Row = tuple[str, Sequence[Panel]]  # the title of its y axis


def initialisation(frames: Frames) -> Figure:
    """The largest p̄_k and the dominance of each seed, over initialisers and scalings, in both batch-norm modes."""
    runs = frames["initialisation"]
    modes = list(zip(MODES.items(), (COLOURS[0], COLOURS[6]), (-0.2, 0.2), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        grid = figure.subplots(2, len(INITS), sharex=True, sharey=True)
        jitter = np.linspace(-0.12, 0.12, runs["seed"].nunique())
        for row, (measure, title) in zip(grid, INITIAL.items(), strict=True):
            row[0].set_ylabel(title)
            for axes, init in zip(row, INITS, strict=True):
                for (place, scaling), ((mode, _), colour, offset) in product(enumerate(SCALINGS), modes):
                    values = where(runs, init=init, scaling=scaling, batch_norm=mode)[measure]
                    at = place + offset + jitter[: len(values)]
                    axes.scatter(at, values, s=6, color=colour, linewidth=0, alpha=0.7)
                    near_one = f"{(values > NEAR_ONE).sum()}"
                    axes.text(place + offset, 1.04, near_one, color=colour, ha="center", va="bottom", fontsize=6)
                axes.axhline(0.1, color="0.4", linestyle=":", linewidth=0.8)
                axes.set(ylim=(0, 1.12))
        for axes, init in zip(grid[0], INITS, strict=True):
            axes.set_title(init, pad=8)
        for axes in grid[-1]:
            axes.set_xticks(range(len(SCALINGS)), SCALINGS, rotation=30, ha="right", rotation_mode="anchor")
        handles = [
            Line2D([], [], marker="o", linestyle="", markersize=3, color=colour, label=title)
            for (_, title), colour, _ in modes
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def first_batches(frames: Frames) -> Figure:
    """How far classes are from 1/C in the first batches: a row for each start, a column for each rate and mode."""
    rows = starts(frames)
    runs = pd.concat(rows.values())
    columns = [(lr, mode) for lr in sorted(runs["lr"].unique()) for mode in MODES if lr or mode == "running"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.3 + 1.7 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
        for row, (start, of_start) in zip(grid, rows.items(), strict=True):
            for axes, (lr, mode) in zip(row, columns, strict=True):
                some = where(of_start, lr=lr, batch_norm=mode)
                for (quantity, title), colour in zip(FIRST_QUANTITIES.items(), (COLOURS[0], COLOURS[6]), strict=True):
                    _over_seeds(axes, some, quantity, color=colour, label=title)
            row[0].set_ylabel(f"{start}:\ndistance from 0.1")
        for axes, (lr, mode) in zip(grid[0], columns, strict=True):
            axes.set_title(f"learning rate {lr:g},\n{MODES[mode]}")
        grid[0, 0].set_ylim(0, 0.2)
        _batch_axis(grid[0, 0], int(runs["step"].max()))
        for axes in grid[-1]:
            axes.set_xlabel("batches (log scale)")
        handles = grid[0, 0].get_legend_handles_labels()[0]
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            title=f"mean over the classes, with the 95 % interval over {runs['seed'].nunique()} seeds",
        )
    return figure


def open_choices(frames: Frames) -> Figure:
    """How the runs of the grid stand at their last probe: a map for each measure, initialisers and losses down.

    Across goes the learning rate, by lr / (1 - momentum), the rate that SGD without momentum needs to move as far.
    """
    grids = [frames[stage] for stage in ("open_choices", "piecewise_zero")]
    end = last_probe(where(pd.concat(grids), batch_norm="running"))
    columns = sorted(set(zip(end["lr"], end["momentum"], strict=True)), key=lambda one: (one[0] / (1 - one[1]), one[1]))
    rows = [(init, loss) for init in INITS for loss in LOSSES if len(where(end, init=init, loss=loss))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.8), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey=True)
        for axes, (measure, title) in zip(grid.flat, MAPS.items(), strict=True):
            for y, (init, loss) in enumerate(rows):
                for x, (lr, momentum) in enumerate(columns):
                    some = where(end, loss=loss, init=init, lr=lr, momentum=momentum)
                    if len(some):
                        _square(axes, x, y, measure, float(some[measure].iloc[0]))
            axes.set(title=title, xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
            labels = [f"{lr:g}, {momentum:g}" for lr, momentum in columns]
            axes.set_xticks(range(len(columns)), labels, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(rows)), [f"{init}, {loss}" for init, loss in rows])
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        for axes in grid[-1]:
            axes.set_xlabel("learning rate, momentum")
    return figure


def _square(axes: Axes, x: int, y: int, measure: str, value: float) -> None:
    """A square of a map with its value; bright is free of the bias."""
    places = {
        "escape_step": 0.9 * (1 - math.log1p(value) / math.log1p(LONGEST)) + 0.1 if math.isfinite(value) else 0.0,
        "dominance": 1 - value,
        "guessed": value / 10,
        "accuracy": 3 * value,
    }
    text = f"{value:.2f}" if measure in ("dominance", "accuracy") else f"{value:.0f}".replace("inf", "never")
    rgb = mpl.colormaps["viridis"](min(max(places[measure], 0.0), 1.0))[:3]
    axes.bar(x, 1, 1, bottom=y - 0.5, color=rgb, edgecolor="white", linewidth=0.5)
    axes.text(x, y, text, color="black" if sum(rgb) > 1.5 else "white", ha="center", va="center", fontsize=7)


def _over_seeds(axes: Axes, runs: pd.DataFrame, quantity: str, **style: Any) -> None:
    """A line of the mean over seeds, with its 95 % interval; initialisation is set off to the left."""
    table = runs.pivot(index="seed", columns="step", values=quantity)
    values = table.to_numpy(dtype=float)
    mean, half = mean_and_half_width(values, np.isfinite(values))
    at = _batches(table.columns)
    axes.plot(at, mean, linewidth=1.2, **style)
    axes.fill_between(at, mean - half, mean + half, color=style["color"], alpha=0.15, linewidth=0)


def _batches(steps: Sequence[int] | pd.Index) -> np.ndarray:
    """Where steps are on an axis of batches; initialisation is set off to the left."""
    return np.where(np.asarray(steps) == 0, INIT, steps)


def _batch_axis(axes: Axes, last: int) -> None:
    axes.set_xscale("log")
    ticks = [step for step in (1, 10, 100, 1000) if step <= last]
    axes.set_xticks([INIT, *ticks], ["Init.", *map(str, ticks)])
    axes.minorticks_off()
    axes.set_xlim(0.8 * INIT, last * 1.1)


def long_run(frames: Frames) -> Figure:
    """Figure 2 of the paper: probability and accuracy of each class over training, a row for each loss, one seed."""
    classes = frames["long_run_classes"]
    rows = {loss: {"loss": loss} for loss in LOSSES}
    columns = {heading: {"quantity": quantity} for quantity, heading in FIGURE_2.items()}
    return _over_classes(where(classes, seed=classes["seed"].min()), _crossed(rows, columns))


def epoch_one(frames: Frames) -> Figure:
    """Each class over epoch one: a row for each loss, probability and accuracy at the smallest rates, one seed."""
    classes = frames["epoch_one_classes"]
    classes = where(classes, seed=classes["seed"].min())
    rates = sorted(classes["lr"].unique())[:SMALLEST]
    columns = {
        f"{heading}, rate {lr:g}": {"lr": lr, "quantity": quantity}
        for lr in rates for quantity, heading in QUANTITIES.items()
    }  # fmt: skip
    return _over_classes(classes, _crossed({loss: {"loss": loss} for loss in LOSSES}, columns))


def piecewise_zero(frames: Frames) -> Figure:
    """What drives training under PZ, by batch statistics: rows as in DRIVING, a column per cell, a line per seed."""
    cells = {title: where(runs, batch_norm="batch") for title, runs in pz_cells(frames).items()}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        grid = figure.subplots(len(DRIVING), len(cells), sharex="col", sharey="row", squeeze=False)
        for column, (cell, runs) in zip(grid.T, cells.items(), strict=True):
            colours = dict(zip(sorted(runs["seed"].unique()), class_colours(runs["seed"].nunique()), strict=True))
            for axes, quantity in zip(column, DRIVING, strict=True):
                for seed, run in runs.groupby("seed"):
                    axes.plot(_batches(run["step"]), run[quantity], color=colours[seed], linestyle=DASHES[seed % 2],
                              linewidth=1.1, label=str(seed))  # fmt: skip
            column[0].set_title(cell.replace(", ", "\n", 1).rsplit(", ", 1)[0])
            _batch_axis(column[-1], int(runs["step"].max()))
            column[-1].set_xlabel("batches (log scale)")
        for row, title in zip(grid, DRIVING.values(), strict=True):
            row[0].set_ylabel(title)
        grid[-1, 0].set_yscale("log")
        grid[-1, 0].set_ylim(bottom=1e-5)
        handles = grid[0, 0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=10, frameon=False, title="seed")
    return figure


def small_rate(frames: Frames) -> Figure:
    """The probability of each class over epoch one under PZ at a small rate: a panel for each seed."""
    return _by_seed(frames["small_rate_classes"])


def favoured_conv1(frames: Frames) -> Figure:
    """The probability of each class in the first batches under PZ from replaced_conv1, in the cell of the tables.

    Raises InputError if it was not run.
    """
    stage, lr, momentum = CONV1_CELL
    classes = where(frames[f"{stage}_classes"], lr=lr, momentum=momentum)
    if classes.empty:
        raise InputError(
            f"no run of {stage} has optimizer.lr={lr:g} and optimizer.momentum={momentum:g}, as in its figure"
        )
    return _by_seed(classes)


def _by_seed(classes: pd.DataFrame) -> Figure:
    """The probability of each class: a panel for each seed, in two rows."""
    panels: list[Panel] = [
        (f"seed {seed}", {"seed": seed, "quantity": "probability"}) for seed in sorted(classes["seed"].unique())
    ]
    across = -(-len(panels) // 2)
    return _over_classes(classes, [(r"$\bar{p}_k$", panels[:across]), (r"$\bar{p}_k$", panels[across:])])


def remedy(frames: Frames) -> Figure:
    """Dominance, classes guessed and accuracy under PZ after some epochs of CE, beside CE and PZ alone."""
    runs = where(remedies(frames), batch_norm="running")
    measures = {one: MAPS[one] for one in ("dominance", "guessed", "accuracy")}
    settings = runs[["loss", "warmup_epochs"]].drop_duplicates().itertuples(index=False)
    first = runs.loc[runs["step"] == 1, "epoch"].min()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        grid = figure.subplots(1, len(measures), sharex=True)
        for (loss, epochs), colour in zip(settings, COLOURS[::2] + COLOURS[1::2], strict=False):
            run = where(runs, loss=loss, warmup_epochs=epochs)
            label = f"{loss} after {epochs} epoch{'s' if epochs > 1 else ''} of ce" if epochs else loss
            for axes, measure in zip(grid, measures, strict=True):
                at = epochs_of(list(run["step"]), round(1 / first), first)
                axes.plot(at, run[measure], color=colour, linewidth=1.2, label=label)
        for axes, title in zip(grid, measures.values(), strict=True):
            epoch_axis(axes, first, runs["epoch"].max())
            axes.autoscale(axis="y")
            axes.set(title=title, xlabel="epochs (log scale)")
            axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
        handles = grid[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _crossed(rows: Choices, columns: Choices) -> list[Row]:
    """A panel for each row and column, both by title."""
    return [(row, [(title, {**chosen, **columns[title]}) for title in columns]) for row, chosen in rows.items()]


def _over_classes(classes: pd.DataFrame, grid: Sequence[Row]) -> Figure:
    """A line for each class over training, in the panels of the grid; rows without any are left out."""
    long = classes.melt(classes.columns.drop(list(CLASS_QUANTITIES)), CLASS_QUANTITIES, var_name="quantity")
    shown = [(row, [(title, where(long, **chosen)) for title, chosen in panels]) for row, panels in grid]
    shown = [(row, panels) for row, panels in shown if any(len(panel) for _, panel in panels)]
    across = max(len(panels) for _, panels in shown)
    colours = class_colours(long["class"].nunique())
    first, last = long.loc[long["step"] == 1, "epoch"].min(), long["epoch"].max()
    above = None  # the titles of the row above, which are not repeated
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(7.2, 1.6 * across), 1.0 + 1.5 * len(shown)), layout="constrained")
        axes_of = figure.subplots(len(shown), across, sharex=True, sharey=True, squeeze=False)
        for (row, panels), line in zip(shown, axes_of, strict=True):
            line[0].set_ylabel(row)
            titles = [title for title, _ in panels]
            for (title, panel), axes in zip(panels, line, strict=False):
                table = panel.pivot(index="step", columns="class", values="value")
                at = epochs_of(list(table.index), round(1 / first), first) if last > 1 else _batches(table.index)
                favoured = set(panel.loc[panel["rank"] == 1, "class"])
                for k in table.columns:
                    width = 2.2 if k in favoured else 1.1
                    axes.plot(at, table[k], color=colours[k], linestyle=DASHES[k % 2], linewidth=width, label=str(k))
                if last > 1:
                    axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
                axes.set_title(title if titles != above else "")
            above = titles
        if last > 1:
            epoch_axis(axes_of[0, 0], first, last)
        else:
            _batch_axis(axes_of[0, 0], int(long["step"].max()))
            axes_of[0, 0].set_ylim(-0.03, 1.03)
        for axes in axes_of[-1]:
            axes.set_xlabel("epochs (log scale)" if last > 1 else "batches (log scale)")
        handles = [
            Line2D([], [], color=colour, linestyle=DASHES[k % 2], label=str(k)) for k, colour in enumerate(colours)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=10, frameon=False,
                      title="class; the thick line is the class favoured at initialisation")  # fmt: skip
    return figure


FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Frames], Figure]]] = {
    "initialisation": (("initialisation",), initialisation),
    "first_batches": (("first_batches", "replaced_conv1"), first_batches),
    "open_choices": (("open_choices", "piecewise_zero"), open_choices),
    "small_rate": (("small_rate_classes",), small_rate),
    "favoured_conv1": (("favoured_conv1_classes",), favoured_conv1),
    "epoch_one": (("epoch_one_classes",), epoch_one),
    "piecewise_zero": (PZ_NEEDS, piecewise_zero),
    "long_run": (("long_run_classes",), long_run),
    "remedy": (("long_run", "remedy"), remedy),
}  # and the CSV files that each is drawn from


def draw(folder: Path) -> None:
    """Draw the figures for which `folder` has the CSV files, into it."""
    frames = read(folder)
    for name, (needs, figure_of) in FIGURES.items():
        if set(needs) <= set(frames):
            figure_of(frames).savefig(folder / f"{name}.png", dpi=150)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m reproduction.figures FOLDER [PAGE ...]")
    with one_line_exit():
        draw(Path(sys.argv[1]))
        pages = [Path(page) for page in sys.argv[2:]]
        for page, text in zip(pages, filled(pages, Path(sys.argv[1])), strict=True):
            page.write_text(text, encoding="utf-8")
