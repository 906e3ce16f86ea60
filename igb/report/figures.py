"""Figures 1 and 2 of arXiv 2511.20826, and figures that explain them, for print."""

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from igb._plots import (
    COLOURS,
    MOST_NAMES,
    STYLE,
    Array,
    bar_legend,
    bars,
    class_colours,
    setting_colours,
    short_name,
)  # fmt: skip
from igb.folder.schema import LABELS
from igb.report.comparison import Scatter, compared, quantities
from igb.report.landscape import DEAD, WRONG, LossCurve, weight_range
from igb.report.prediction import Prediction, axis
from igb.report.regime import MEASURES, RegimeMap
from igb.report.runs import OVERALL
from igb.report.settings import FEWEST, Panel, mean_and_bounds
from igb.theory import guesses

DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)))
BAND_ALPHA = 0.1
# The lines of a chart of memorisation: column, name, place of the colour, dashes.
MEMORISATION_LINES: dict[str, tuple[str, int, tuple[float, ...]]] = {
    "predicted_given": ("predicted as labelled", 6, ()),
    "predicted_true": ("predicted as what they are", 3, ()),
    "predicted_other": ("predicted as another class", 4, ()),
    "probability_given": ("mean probability of the label", 6, (4, 2)),
    "probability_true": ("mean probability of what they are", 3, (4, 2)),
    "confident": ("any class above 0.95", 9, (1, 1.5)),
}
ONLY_WRONG = ("predicted_true", "probability_true")  # where labels are clean, the same as of the label
REGION_COLOURS = {WRONG: "#CC6677", DEAD: "#999999"}
# A setting has one of ten colours, and of these by tens.
SETTING_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
SETTING_MARKERS = ("o", "s", "D")
PANELS_ACROSS = 3
LONGEST_SIDE = 30_000  # pixels of a PNG; matplotlib can draw 65,536

FIGURE_2 = {
    "probability": r"$\bar{p}_k$: mean probability of class $k$",
    "accuracy": r"$\mathrm{Acc}_k$: accuracy of class $k$",
}
DRIVERS = {
    "gradient_share": "share of class $k$ in the gradient norm",
    "active_fraction": "active fraction of class $k$",
}


def figure1(panels: Sequence[Panel]) -> Figure:
    """Mean predicted probability of each class at initialisation, one plot per panel.

    A filled bar is p̄_k, over the images of class k (equation 4); a hatched one is over all images. Over seeds, a bar is
    the mean and its error bar the 95 % interval; with fewer than five, each is a dot.
    """
    names = panels[0].names
    across = min(PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.9 + 2.6 * across, 0.7 + 1.9 * down), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, panels, strict=False):
            own, over_all = panel.curves("probability"), panel.curves("mean_probability")
            bars(axes, names, own.mean[0], over_all.mean[0])
            for offset, curves in ((-0.2, own), (0.2, over_all)):
                at = np.arange(len(names)) + offset
                if curves.few:
                    axes.plot(np.tile(at, len(curves.each)), curves.each[:, 0].ravel(), "o", color="0.25", markersize=2)
                elif curves.n[0] > 1:
                    reach = [curves.mean[0] - curves.low[0], curves.high[0] - curves.mean[0]]
                    axes.errorbar(at, curves.mean[0], reach, fmt="none", ecolor="0.25", elinewidth=0.8)
            axes.set_title(_title(panel))
        for axes in grid[:, 0]:
            axes.set_ylabel("mean probability")
        for axes in grid.flat[max(len(panels) - across, 0) : len(panels)]:
            axes.tick_params(labelbottom=True)  # also above a gap in the last row
        bar_legend(figure)
    return figure


def over_training(panels: Sequence[Panel], quantities: Mapping[str, str]) -> Figure:
    """Each class over training: a column for each quantity, given with its title, and a row for each panel.

    Over seeds, a line is the mean and the band around it the 95 % interval; with fewer than five, each thin line
    is one seed.
    """
    names, colours = panels[0].names, class_colours(len(panels[0].names))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.3 + 1.75 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), len(quantities), sharex=True, sharey=True, squeeze=False)
        first, last = epoch_range(panels)
        for row, panel in zip(grid, panels, strict=True):
            for axes, quantity in zip(row, quantities, strict=True):
                curves = panel.curves(quantity)
                epochs = epochs_of(curves.steps, panel.steps_per_epoch, first)
                lines, width = (curves.each, 0.6) if curves.few else (curves.mean[None], 1)
                for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
                    for line in lines[:, :, k]:
                        probed = ~np.isnan(line) if curves.few else np.ones(len(line), dtype=bool)
                        axes.plot(
                            epochs[probed],
                            line[probed],
                            color=colour,
                            linestyle=DASHES[k % 2],
                            linewidth=width,
                            marker="o" if len(epochs) == 1 else None,
                            markersize=3,
                            label=name,
                        )
                    if max(curves.n) > 1 and not curves.few:
                        axes.fill_between(
                            epochs, curves.low[:, k], curves.high[:, k], color=colour, alpha=BAND_ALPHA, linewidth=0
                        )
                axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
            row[0].set_ylabel(_title(panel))
        epoch_axis(grid[0, 0], first, last)
        for axes, title in zip(grid[0], quantities.values(), strict=True):
            axes.set_title(title, parse_math=True)
        for axes in grid[-1]:
            axes.set_xlabel("epochs (log scale)")
        every = -(-len(names) // MOST_NAMES)  # with more, neighbouring colours look the same
        handles = [
            Line2D([], [], color=colours[k], linestyle=DASHES[k % 2], label=short_name(names[k]))
            for k in range(0, len(names), every)
        ]
        counts = {panel.count for panel in panels}
        title = _over_seeds(panels)
        if title and len(counts) == 1:
            title += f", {counts.pop()}"
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, title=title)
    return figure


def _over_seeds(panels: Sequence[Panel]) -> str:
    """What the lines mean; empty if no panel has several seeds."""
    few = {panel.curves("guess_fraction").few for panel in panels if panel.count}
    if not few:
        return ""
    if len(few) == 1:
        return "a thin line is a seed" if few == {True} else "mean and 95 % interval over seeds"
    return f"mean and 95 % interval over seeds; with fewer than {FEWEST}, a thin line is a seed"


def comparison(panels: Sequence[Panel], scatters: Sequence[Scatter]) -> Figure:
    """All settings over training in one plot for each of `quantities`, and scatter plots, by batch-norm mode.

    A line is the mean over seeds; a point in a scatter plot is a run, hollow if it has not escaped.
    """
    labels, modes = compared(panels)
    shown, colours = quantities(panels), setting_colours(len(labels))
    first, last = epoch_range(panels)
    rows = len(modes) * len(shown) // 2 + len(scatters) // 2
    longest = max(map(len, labels))
    across = 3 if longest <= 28 else 2 if longest <= 45 else 1
    legend_rows = -(-len(labels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.5 + 2.3 * rows + 0.16 * legend_rows), layout="constrained")
        grid = iter(figure.subplots(rows, 2, squeeze=False).flat)
        for mode, of_mode in modes.items():
            for quantity, axes in zip(shown, grid, strict=False):
                for number, panel in of_mode.items():
                    if "." in quantity and not panel.has_wrong_labels:
                        continue
                    curves = panel.curves(quantity)
                    axes.plot(
                        epochs_of(curves.steps, panel.steps_per_epoch, first), curves.mean[:, 0], linewidth=1.1,
                        color=colours[number], linestyle=SETTING_DASHES[number // 10 % len(SETTING_DASHES)],
                        marker="o" if len(curves.steps) == 1 else None, markersize=3,
                    )  # fmt: skip
                axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
                epoch_axis(axes, first, last)
                if quantity == "mean_accuracy":  # far below 1 in early training
                    axes.autoscale(axis="y")
                    axes.set_ylim(bottom=0)
                axes.set_title(_wrapped(OVERALL[quantity] + (f" ({mode} statistics)" if len(modes) > 1 else "")))
                axes.set_xlabel("epochs (log scale)")
        for one, axes in zip(scatters, grid, strict=True):
            for point in one.points:
                colour = colours[point.setting]
                axes.plot(
                    point.x, point.y, SETTING_MARKERS[point.setting // 10 % len(SETTING_MARKERS)], color=colour,
                    markersize=4.5, alpha=0.8, markerfacecolor=colour if point.escaped else "none", clip_on=False,
                )  # fmt: skip
            axes.set_title(one.title)
            axes.set_xlabel("mean weight at initialisation")
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
            axes.set_xticks(*zip(*one.x_ticks, strict=True))
            axes.set_yticks(*zip(*one.y_ticks, strict=True))
        handles = [
            Line2D(
                [], [], color=colours[number], linestyle=SETTING_DASHES[number // 10 % len(SETTING_DASHES)],
                marker=SETTING_MARKERS[number // 10 % len(SETTING_MARKERS)] if scatters else None, markersize=4,
                label=textwrap.shorten(label, 90, placeholder=" …"),
            )
            for number, label in enumerate(labels)
        ]  # fmt: skip
        seeds = "a line is the mean over seeds" if any(panel.count for panel in panels) else ""
        hollow = "a hollow point is a run that has not escaped" if scatters else ""
        title = "; ".join(filter(None, (seeds, hollow)))
        figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False, title=title)
    return figure


def memorisation(panels: Sequence[Panel]) -> Figure:
    """What networks make of training images with clean and with wrong labels: a row a panel, means over seeds."""
    first, last = epoch_range(panels)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 1.75 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), len(LABELS), sharex=True, sharey=True, squeeze=False)
        for row, panel in zip(grid, panels, strict=True):
            for axes, labels in zip(row, LABELS, strict=True):
                for column, (name, colour, dash) in MEMORISATION_LINES.items():
                    if labels == "clean" and column in ONLY_WRONG:
                        continue
                    curves = panel.curves(f"{labels}.{column}")
                    epochs = epochs_of(curves.steps, panel.steps_per_epoch, first)
                    axes.plot(
                        epochs,
                        curves.mean[:, 0],
                        color=COLOURS[colour],
                        linestyle=(0, dash) if dash else "-",
                        label=name,
                    )
                axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
            row[0].set_ylabel(_title(panel))
        epoch_axis(grid[0, 0], first, last)
        for axes, labels in zip(grid[0], LABELS, strict=True):
            axes.set_title(f"training images with {labels} labels")
        for axes in grid[-1]:
            axes.set_xlabel("epochs (log scale)")
        handles = grid[0, 1].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def theory(found: Sequence[Prediction]) -> Figure:
    """Dominance at initialisation beside the mean-field theory: along a swept key, and over the seeds of one setting.

    On the left a point is the mean of a setting with its 95 % interval (of fewer than five runs each is a point), and a
    line is the theory; without a swept key the theory is the horizontal axis. On the right is the setting with the most
    runs: a histogram of what its most guessed class takes, or for two classes of what the first takes, and the
    distribution that the theory gives.
    """
    along = axis(found)
    largest = max(found, key=lambda one: len(one.measured))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        lines = along.lines if along else {"": [(one.dominance, one) for one in found]}
        for colour, (label, line) in zip(setting_colours(len(lines)), lines.items(), strict=True):
            at = [place for place, _ in line]
            for place, one in line:
                measured = np.array(one.measured)
                mean, low, high = mean_and_bounds(measured[:, None], np.ones((len(measured), 1), bool), bounded=True)
                if len(measured) < FEWEST:
                    left.plot([place] * len(measured), measured, "o", color=colour, markersize=3)
                else:
                    reach = [mean - low, high - mean]
                    left.errorbar([place], mean, reach, fmt="o", color=colour, markersize=3, elinewidth=0.8)
            if along:
                left.plot(at, [one.dominance for _, one in line], color=colour, linewidth=1, label=label or "theory")
        if along is None:
            left.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
        left.set(ylim=(0, 1.03), xlabel=along.key if along else "dominance by the theory", ylabel="dominance")
        left.set_title("at initialisation: measured (points), theory (lines)")
        if along and any(lines):
            left.legend(frameon=False, fontsize=6)
        _distribution(right, largest)
    return figure


def _distribution(axes: Axes, one: Prediction) -> None:
    """A histogram of guess fractions over the runs of a setting, and what the theory says."""
    distribution = guesses(one.drift_ratio, one.classes)
    tables = [run.table("guess_fraction", one.panel.mode).iloc[0] for run in one.panel.runs]
    edges = np.linspace(0, 1, 11 if len(tables) < 50 else 21)
    if one.classes == 2:
        values, what = [float(table[0]) for table in tables], "$G_0$, share of the first class"
        sample = distribution.sample(10_000)[:, 0]
    else:
        values, what = one.measured, "dominance, max $G_k$"
        sample = distribution.sample(10_000).max(axis=1)
    axes.hist(values, edges.tolist(), density=True, color=COLOURS[1], label=f"{len(values)} runs")
    density, _ = np.histogram(sample, edges, density=True)
    axes.stairs(density, edges, color=COLOURS[6], linewidth=1.2, label=f"theory, drift ratio {one.drift_ratio:.3g}")
    axes.set_title(_title(one.panel))
    axes.set_xlabel(what, parse_math=True)
    axes.set_ylabel("density over networks")
    axes.legend(frameon=False, fontsize=6)


def loss_landscape(curves: Sequence[LossCurve]) -> Figure:
    """Each loss, its gradient by the true class's logit, its weight, and where the gradient is zero or points away."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7 + 0.3 * len(curves)), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.9, 0.2 * len(curves)))
        loss, gradient, weight = (figure.add_subplot(grid[0, column]) for column in range(3))
        below = figure.add_subplot(grid[1, :])
        for number, (curve, colour) in enumerate(zip(curves, class_colours(len(curves)), strict=True)):
            style = {"color": colour, "linestyle": DASHES[number % 2], "linewidth": 1.2}
            loss.plot(curve.p, curve.loss, label=curve.name, **style)
            gradient.plot(curve.p, curve.gradient, **style)
            weight.plot(curve.p, curve.weight, **style)
            below.plot([curve.p[0], 1], [number, number], **(style | {"linewidth": 0.8}))
            for kind, start, end in curve.regions:
                below.barh(number, end - start, 0.7, left=start, color=REGION_COLOURS[kind], zorder=3)
            if curve.regions:
                at_left = curve.regions[0][1] == curve.p[0]
                below.text(
                    curve.p[0] * 1.2 if at_left else curve.regions[0][1] / 1.2, number, "; ".join(curve.region_texts),
                    ha="left" if at_left else "right", va="center", fontsize=6, parse_math=True, zorder=4,
                    bbox=None if at_left else {"facecolor": "white", "linewidth": 0, "pad": 1.5},
                )  # fmt: skip
        for axes in (gradient, weight):
            axes.axhline(0, color="0.4", linewidth=0.6)
        weight.set_yscale("symlog", linthresh=1e-3)  # which shows small weights and their sign
        ticks = [-1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10]
        weight.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        weight.set_ylim(*weight_range(curves))
        loss.set_title("loss")
        gradient.set_title("gradient by the true logit")
        weight.set_title("weight, -gradient / $(1 - p_y)$", parse_math=True)
        for axes in (loss, gradient, weight, below):
            axes.set(xscale="log", xlim=(curves[0].p[0], 1))
            powers = _powers(curves[0].p[0])
            axes.set_xticks(*zip(*(powers if axes is below else powers[::3]), strict=True))
            axes.minorticks_off()
        below.set(ylim=(len(curves) - 0.4, -0.6), yticks=[])
        below.set_xlabel("$p_y$, probability of the true class", parse_math=True)
        below.spines["left"].set_visible(False)
        handles = [
            *loss.get_legend_handles_labels()[0],
            *(Patch(color=colour, label=f"gradient {_MEANING[kind]}") for kind, colour in REGION_COLOURS.items()),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def regime_map(maps: Sequence[RegimeMap]) -> Figure:
    """Heat maps, a column for each measure and a row for each map."""
    first = maps[0]
    width = sum(0.5 + max(0.42 * len(first.x_values), 1.3) for _ in MEASURES) + 0.6
    height = sum(0.75 + 0.32 * len(one.y_values) for one in maps) + 0.3
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(maps), len(MEASURES), squeeze=False)
        for row, one in zip(grid, maps, strict=True):
            for axes, (measure, title) in zip(row, MEASURES.items(), strict=True):
                _heat_map(axes, one, one.cells[measure])
                axes.set_title(title)
            row[0].set_yticks(range(len(one.y_values)), one.y_values)
            row[0].set_ylabel("\n".join(filter(None, (one.title, one.y_key))))
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, dpi=150)
    return stream.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Save a figure as `path`.png and `path`.pdf; the same figure gives the same bytes."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in other scripts show as boxes; the page has them
        figure.savefig(path.with_suffix(".png"), dpi=min(200, LONGEST_SIDE / max(figure.get_size_inches())))
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def epoch_range(panels: Sequence[Panel]) -> tuple[float, float]:
    """The first batch and the last probe of the panels, in epochs."""
    last = max(max(run.metrics["epoch"]) for panel in panels for run in panel.runs)
    return min(1 / panel.steps_per_epoch for panel in panels), float(last)


def epochs_of(steps: Sequence[int], steps_per_epoch: int, first: float) -> Array:
    """Steps as epochs on a log axis: initialisation is placed to the left of the first batch."""
    return np.where(np.array(steps) == 0, first / 3, np.array(steps) / steps_per_epoch)


def epoch_ticks(first: float, last: float) -> list[float]:
    """Positions of the labels on the axis of epochs; the first is initialisation."""
    decades = [10.0**power for power in range(math.ceil(math.log10(first)), 1)]
    epochs = [epoch for epoch in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if 1.4 * epoch <= last]
    return [first / 3, *decades, *epochs, *([last] if last >= 1.4 else [])]


_MEANING = {WRONG: "points away from the true class", DEAD: "is zero"}


def _powers(least: float) -> list[tuple[float, str]]:
    """Powers of ten up to 1, with their labels."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    powers = range(math.ceil(math.log10(least) - 1e-9), 1)
    return [(10.0**power, "1" if power == 0 else f"10{str(power).translate(raised)}") for power in powers]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 48))


def _title(panel: Panel) -> str:
    lines = [
        line for part in panel.title.split("\n") for line in textwrap.wrap(part, 40, max_lines=3, placeholder=" …")
    ]
    return "\n".join([*lines, *filter(None, [panel.count])])


def _heat_map(axes: Axes, one: RegimeMap, cells: Sequence[Sequence[Any]]) -> None:
    for y, line in enumerate(cells):
        for x, cell in enumerate(line):
            if cell is not None:
                axes.bar(x, 1, 1, bottom=y - 0.5, color=cell.colour, edgecolor="white", linewidth=0.5)
                axes.text(x, y, cell.text, color=cell.ink, ha="center", va="center", fontsize=6)
    for (name, line), dash in zip(one.edges.items(), DASHES, strict=False):
        axes.plot(*zip(*line, strict=True), color="black", linestyle=dash, linewidth=1.2, label=name)
    if one.edges:
        axes.legend(frameon=True, fontsize=5, loc="upper left")
    axes.set_xticks(range(len(one.x_values)), one.x_values, rotation=45, ha="right")
    axes.set(xlim=(-0.5, len(one.x_values) - 0.5), ylim=(len(one.y_values) - 0.5, -0.5), yticks=[], xlabel=one.x_key)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def epoch_axis(axes: Axes, first: float, last: float) -> None:
    """A log axis of epochs from "Init." to the last epoch."""
    ticks = epoch_ticks(first, last)
    axes.set_xscale("log")
    axes.set_xticks(ticks, ["Init.", *(f"{tick:.3g}" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set(xlim=(first / 4, max(last, 1) * 1.1), ylim=(-0.02, 1.02))
