"""What the command `igb-theory` prints and draws."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from igb._checks import InputError
from igb._files import make_folder
from igb._plots import STYLE
from igb.theory.guesses import guesses
from igb.theory.phases import edge_of_chaos, fixed_point, neutral_edge, phase_diagram
from igb.theory.propagation import propagate

EDGES: dict[str, tuple[Any, Any]] = {"edge of chaos": (edge_of_chaos, "-"), "neutral edge": (neutral_edge, "--")}
LABELLED = 0.03  # of the points of a diagram, which a phase with a name in it has
OUTLINE = [withStroke(linewidth=2.2, foreground="white")]


def command(
    activations: Sequence[str],
    weight_variance: str | None,
    bias_variance: str | None,
    depth: str,
    classes: int,
    correlation: float,
    norm: str,
    residual: bool,
    phase_diagram: bool,
    output: Path | None,
) -> None:
    """What `igb-theory` does with its arguments; InputError for one that is wrong."""
    weights = list(dict.fromkeys(_numbers("weight_variance", weight_variance)))
    biases = list(dict.fromkeys(_numbers("bias_variance", bias_variance)))
    if phase_diagram:
        if norm != "none" or residual or correlation:
            raise InputError("phase-diagram is of networks without norm and residuals, from independent inputs")
        folder = make_folder(output or Path("theory"), exclusively=False)
        write_phase_diagrams(
            folder,
            activations,
            weights or np.linspace(0.04, 4, 100).tolist(),
            biases or np.linspace(0, 1, 101).tolist(),
        )
        print(f"the phase diagram is {folder / 'phase_diagram.png'}; .pdf and .csv are beside it")
        return
    kept = make_folder(output, exclusively=False) if output is not None else None  # before the work
    found = table(
        activations, weights or [2.0], biases or [0.0], _numbers("depth", depth, int), classes, correlation=correlation,
        norm=norm, residual=residual,
    )  # fmt: skip
    print(found.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    if kept is not None:
        found.to_csv(kept / "theory.csv", index=False)


def _numbers(name: str, text: str | None, kind: Any = float) -> list[Any]:
    """The numbers in a text such as 1.5,2; InputError if it has something else."""
    try:
        return [kind(part) for part in text.split(",")] if text is not None else []
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{name}={text} must be {what} with commas between them, such as 10,50") from error


def table(
    activations: Sequence[str],
    weight_variances: Sequence[float],
    bias_variances: Sequence[float],
    depths: Sequence[int],
    classes: int,
    *,
    correlation: float = 0.0,
    norm: str = "none",
    residual: bool = False,
) -> pd.DataFrame:
    """The logits of networks of every combination: a row for each, with what `propagate` and `guesses` give.

    `phase` is that of an endlessly deep network without norm, and left out where there is one.
    """
    rows = []
    for activation, weight_variance, bias_variance in itertools.product(activations, weight_variances, bias_variances):
        options = {"correlation": correlation, "norm": norm, "residual": residual}
        found = propagate(activation, weight_variance, bias_variance, max(depths), **options)  # type: ignore[arg-type]
        phase = fixed_point(activation, weight_variance, bias_variance).phase
        for depth in depths:
            known = {"activation": activation, "weight_variance": weight_variance, "bias_variance": bias_variance}
            at = {
                name: float(getattr(found, name)[depth - 1])
                for name in ("variance", "correlation", "drift_ratio", "chi")
            }
            ratio = at["drift_ratio"]
            dominance = math.nan if math.isnan(ratio) else guesses(ratio, classes).mean_dominance
            rows.append({**known, "depth": depth, **at, "mean_dominance": dominance, "phase": phase})
    found_rows = pd.DataFrame(rows)
    return found_rows if norm == "none" and not residual else found_rows.drop(columns="phase")


def write_phase_diagrams(
    folder: Path, activations: Sequence[str], weight_variances: Sequence[float], bias_variances: Sequence[float]
) -> None:
    """Write phase_diagram.csv, .png and .pdf into a folder: fixed points over a grid, and the two edges."""
    tables = {name: phase_diagram(name, weight_variances, bias_variances) for name in activations}
    whole = pd.concat([found.assign(activation=name) for name, found in tables.items()])
    whole.insert(0, "activation", whole.pop("activation"))
    whole.to_csv(folder / "phase_diagram.csv", index=False)
    figure = phase_figure(tables)
    with mpl.rc_context(STYLE):
        figure.savefig(folder / "phase_diagram.png", dpi=200)
        figure.savefig(folder / "phase_diagram.pdf", metadata={"CreationDate": None})


def phase_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What correlation deep networks come to over the two variances, the edges, and the names of the phases."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 2.9 * len(tables), 3.0), layout="constrained")
        grid = figure.subplots(1, len(tables), squeeze=False)[0]
        image: Any = None
        for axes, (name, found) in zip(grid, tables.items(), strict=True):
            values = found.pivot(index="bias_variance", columns="weight_variance", values="correlation")
            axes.set_facecolor("0.8")  # where it is undefined
            image = axes.pcolormesh(
                values.columns, values.index, values, vmin=0, vmax=1, cmap="viridis", shading="nearest", rasterized=True
            )
            for phase, part in found.groupby("phase"):
                if len(part) > LABELLED * len(found):
                    middle = part[["weight_variance", "bias_variance"]].median()
                    label = axes.text(*middle, str(phase).replace(", ", ",\n"), ha="center", va="center", fontsize=6)
                    label.set_path_effects(OUTLINE)
            draw_edges(axes, name)
            axes.set_title(name)
            axes.set_xlabel(r"weight variance $\sigma_w^2$", parse_math=True)
        grid[0].set_ylabel(r"bias variance $\sigma_b^2$", parse_math=True)
        figure.colorbar(image, ax=list(grid)).set_label("correlation $c^*$", parse_math=True)
        handles = [Line2D([], [], color="black", linestyle=dash, label=label) for label, (_, dash) in EDGES.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_edges(axes: Axes, activation: str) -> None:
    """Draw the edge of chaos and the neutral edge of an activation into a plot over weight and bias variance."""
    across, up = axes.get_xlim(), axes.get_ylim()
    biases = up[1] * np.linspace(0, 1, 41) ** 2  # closer where the edges bend
    for edge, dash in EDGES.values():
        weights = [edge(activation, float(bias)) for bias in biases]
        axes.plot(weights, biases, color="black", linestyle=dash, linewidth=1, path_effects=OUTLINE)
    axes.set(xlim=across, ylim=up)
