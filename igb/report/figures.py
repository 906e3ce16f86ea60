"""Figures 1 and 2 of arXiv 2511.20826."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from igb.report.runs import Run

# Paul Tol's "muted" scheme and black: ten colours that stay apart for colour-blind readers. The dashes of every
# second one keep neighbours apart in print.
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000",
)  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)))
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "pdf.fonttype": 42,  # text stays text
}
PANELS_ACROSS = 3
LONGEST_SIDE = 30_000  # pixels of a PNG, of which matplotlib can draw 65,536


def figure1(runs: Sequence[Run]) -> Figure:
    """Mean predicted probability of each class at initialisation, a panel for each run and batch-norm mode.

    A full bar is p̄_k, over the images of class k (equation 4); an open one is over all images.
    """
    panels = _panels(runs)
    names = runs[0].class_names
    across = min(PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.9 + 2.6 * across, 0.7 + 1.9 * down), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (run, mode, title) in zip(grid.flat, panels, strict=False):
            own = run.table("probability", mode).iloc[0].to_numpy()
            over_all = run.table("mean_probability", mode).iloc[0].to_numpy()
            at = np.arange(len(names))
            colours = [_colour(k, len(names)) for k in range(len(names))]
            axes.bar(at - 0.2, own, 0.4, color=colours)
            axes.bar(at + 0.2, over_all, 0.4, facecolor="none", edgecolor=colours, hatch="/////", linewidth=0.8)
            axes.set(ylim=(0, 1), title=title)
            axes.set_xticks(at, names, rotation=45, ha="right", rotation_mode="anchor")
        for axes in grid[:, 0]:
            axes.set_ylabel("mean probability")
        for axes in grid.flat[max(len(panels) - across, 0) : len(panels)]:
            axes.tick_params(labelbottom=True)  # also above a gap in the last row
        legend = [
            Patch(facecolor="0.35", label="over the images of the class"),
            Patch(facecolor="none", edgecolor="0.35", hatch="/////", label="over all images"),
        ]
        figure.legend(handles=legend, loc="outside upper center", ncols=2, frameon=False)
    return figure


def figure2(runs: Sequence[Run]) -> Figure:
    """p̄_k (left) and Acc_k (right) of each class over training, a row for each run and batch-norm mode."""
    panels = _panels(runs)
    names = runs[0].class_names
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 1.75 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 2, sharex=True, sharey=True, squeeze=False)
        first = min(1 / run.info["steps_per_epoch"] for run in runs)
        last = max(max(run.metrics["epoch"]) for run in runs)
        for row, (run, mode, title) in zip(grid, panels, strict=True):
            for axes, quantity in zip(row, ("probability", "accuracy"), strict=True):
                table = run.table(quantity, mode)
                epochs = np.where(table.index == 0, first / 3, table.index / run.info["steps_per_epoch"])
                for k in table.columns:
                    axes.plot(
                        epochs,
                        table[k],
                        color=_colour(k, len(names)),
                        linestyle=DASHES[k % 2],
                        linewidth=1,
                        marker="o" if len(epochs) == 1 else None,
                        markersize=3,
                        label=names[k],
                    )
                axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
            row[0].set_ylabel(title)
        _epoch_axis(grid[0, 0], first, last)
        grid[0, 0].set_title(r"$\bar{p}_k$: mean probability of class $k$")
        grid[0, 1].set_title(r"$\mathrm{Acc}_k$: accuracy of class $k$")
        for axes in grid[-1]:
            axes.set_xlabel("epochs (log scale)")
        handles = [
            Line2D([], [], color=_colour(k, len(names)), linestyle=DASHES[k % 2], label=name)
            for k, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a figure as `path`.png and `path`.pdf; the same figure gives the same bytes."""
    with mpl.rc_context(STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=min(200, LONGEST_SIDE / max(figure.get_size_inches())))
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def _panels(runs: Sequence[Run]) -> list[tuple[Run, str, str]]:
    """Run, batch-norm mode and title; the mode is named where there are several."""
    several = len({mode for run in runs for mode in run.modes}) > 1
    return [
        (run, mode, f"{run.label}\n({mode} statistics)" if several else run.label) for run in runs for mode in run.modes
    ]


def _colour(k: int, classes: int) -> str:
    if classes <= len(COLOURS):
        return COLOURS[k]
    return mpl.colors.to_hex(mpl.colormaps["viridis"](k / (classes - 1)))


def _epoch_axis(axes: Axes, first: float, last: float) -> None:
    """A log axis of epochs from "Init.", set off to the left of the first batch, to the last epoch."""
    decades = [10.0**power for power in range(int(np.ceil(np.log10(first))), 1)]
    epochs = [epoch for epoch in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if 1.4 * epoch <= last]
    ticks = [first / 3, *decades, *epochs, *([last] if last >= 1.4 else [])]
    axes.set_xscale("log")
    axes.set_xticks(ticks, ["Init.", *(f"{tick:.3g}" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set(xlim=(first / 4, max(last, 1) * 1.1), ylim=(-0.02, 1.02))
