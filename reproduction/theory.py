"""The figures of docs/theory.md: the mean-field theory beside wide random networks, and a ResNet-50 layer by layer.

`python -m reproduction.theory FOLDER STAGES PAGE` draws them from the CSV files in the folders and fills in the tables
of the page; with `--measure` it measures those of the first folder before, in some ten minutes.
"""

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

import igb
from igb import experiment, initialization, models
from igb._checks import InputError
from igb._plots import COLOURS, STYLE, log_axis
from igb.statistics import measure
from igb.theory import guesses, propagate, weight_variance_of
from igb.theory.propagation import NORMS
from igb.theory.tables import EDGES, draw_edges
from igb.training.probe import probe_order
from reproduction import claims
from reproduction.common import Frames, fill, one_line_exit, read

INPUTS, SIZE, WIDTH = 500, 20, 500  # random images of so many pixels, as independent as the theory's inputs
SEEDS = range(5)
DEPTH = 30  # layers with weights
DEEP = {"tanh": [(1.5, 0.1), (2.0, 0.1), (3.0, 0.1)], "relu": [(2.0, 0.0), (1.5, 0.1)]}  # pairs of variances
WEIGHTS = {"tanh": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), "relu": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)}
BIASES = (0.02, 0.25, 0.5, 0.75, 1.0)
NORM_AT = (2.0, 0.1)
MEASURED = ("depths", "phases", "norms", "guesses", "resnet50", "correlations", "networks")  # CSV files
FINE = 25  # points along each axis of the theory's phase diagram
RATIOS, NETWORKS, SHALLOW = (0.05, 1.0, 10.0), 400, 6
IMAGES = 500


def measure_all(
    folder: Path, cifar10: Sequence[str] = (), fashion_mnist: Sequence[str] = (), networks: int | None = None
) -> None:
    """Write the CSV files; the overrides of each data set say where it is, `networks` limits those of a kind."""
    some = slice(networks)
    of_stages = {"trainability": fashion_mnist, "trainability_cifar10": cifar10}
    images = {stage: claims.ImagesOf.stage(stage, overrides) for stage, overrides in of_stages.items()}
    tables: dict[str, Iterable[dict[str, Any]]] = {
        "depths": _depths(SEEDS[some]),
        "phases": _phases(SEEDS[some]),
        "norms": _norms(SEEDS[some]),
        "guesses": _guesses(range(NETWORKS)[some]),
        "resnet50": _resnet(SEEDS[some], cifar10),
        "correlations": (
            row for stage, of in images.items() for row in claims.correlations(stage, of, claims.SEEDS[some])
        ),
        "networks": (row for stage, of in images.items() for row in claims.networks(stage, of, claims.SEEDS[some])),
    }
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def _network(
    seed: int, activation: str, depth: int, variances: tuple[float, float], classes: int = 10, **options: Any
) -> nn.Module:
    def make() -> nn.Module:
        return models.MLP(classes, SIZE, depth=depth - 1, width=WIDTH, activation=activation, **options)

    def draw(network: nn.Module) -> None:
        initialization.mean_field(network, *variances)

    return initialization.build(make, draw, seed)


def _inputs(seed: int) -> torch.Tensor:
    return torch.randn(INPUTS, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def _depths(seeds: range) -> Iterator[dict[str, Any]]:
    for activation, pairs in DEEP.items():
        for pair in pairs:
            for seed in seeds:
                table = igb.trace(_network(seed, activation, DEPTH, pair), _inputs(seed)).table.iloc[
                    :-1
                ]  # but the head
                for row in table.itertuples():
                    yield {
                        "activation": activation, "weight_variance": pair[0], "bias_variance": pair[1], "seed": seed,
                        "layer": row.depth, "correlation": round(row.correlation, 6),
                    }  # fmt: skip


def _phases(seeds: range) -> Iterator[dict[str, Any]]:
    for activation, weights in WEIGHTS.items():
        for weight in weights:
            for bias in BIASES:
                found = [
                    igb.trace(_network(seed, activation, DEPTH, (weight, bias)), _inputs(seed)).table.iloc[-2]
                    for seed in seeds
                ]
                correlations = [row["correlation"] for row in found if np.isfinite(row["correlation"])]
                yield {
                    "activation": activation, "weight_variance": weight, "bias_variance": bias,
                    "correlation": round(float(np.mean(correlations)), 6) if correlations else float("nan"),
                }  # fmt: skip


def _norms(seeds: range) -> Iterator[dict[str, Any]]:
    for norm in NORMS:
        for seed in seeds:
            network = _network(seed, "relu", DEPTH, NORM_AT, norm=norm)
            for row in igb.trace(network, _inputs(seed), batch_norm="batch").table.iloc[:-1].itertuples():
                yield {"norm": norm, "seed": seed, "layer": row.depth, "drift_ratio": float(f"{row.drift_ratio:.5g}")}


def _guesses(seeds: range) -> Iterator[dict[str, Any]]:
    for ratio in RATIOS:
        weight = weight_variance_of(ratio, "tanh", 0.05, SHALLOW)
        for seed in seeds:
            network = _network(seed, "tanh", SHALLOW, (weight, 0.05), classes=2)
            stats = measure(network, _inputs(seed), torch.zeros(INPUTS, dtype=torch.int64))
            yield {"drift_ratio": ratio, "seed": seed, "guess_fraction": float(stats.guess_fraction[0])}


def _resnet(seeds: range, overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        parts = experiment.build(experiment.compose(*overrides, "model=resnet50", f"seed={seed}"))
        parts.data.setup()
        order = probe_order(parts.data.test_labels, min(IMAGES, len(parts.data.test_labels)))
        network = parts.make_network()
        for mode in ("running", "batch"):
            found = igb.trace(network, parts.data.test_images[order], batch_norm=mode, transform=parts.data.scale)
            for row in found.table.itertuples():
                yield {
                    "seed": seed, "batch_norm": mode, "depth": row.depth, "layer": row.layer,
                    "drift_ratio": float(f"{row.drift_ratio:.5g}"),
                }  # fmt: skip


def draw_all(folder: Path, frames: Frames) -> None:
    """Draw the figures into the folder."""
    drawn: dict[str, Callable[[pd.DataFrame], Figure]] = {
        "depths": depths, "phases": phases, "norms": norms, "guesses": shares, "resnet50": resnet
    }  # fmt: skip
    with mpl.rc_context(STYLE):
        for name, draw in drawn.items():
            draw(frames[name]).savefig(folder / f"{name}.png", dpi=150)
        for name, draw_claim in claims.FIGURES.items():
            draw_claim(frames).savefig(folder / f"{name}.png", dpi=150)


def depths(table: pd.DataFrame) -> Figure:
    """Correlation against depth: points are networks, lines the theory."""
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    for axes, (activation, of_activation) in zip(
        figure.subplots(1, 2, sharey=True), table.groupby("activation"), strict=True
    ):
        pairs = of_activation.groupby(["weight_variance", "bias_variance"])
        for colour, ((weight, bias), part) in zip(COLOURS[::2], pairs, strict=False):
            axes.plot(part["layer"], part["correlation"], "o", color=colour, markersize=1.5, alpha=0.5)
            theory = propagate(str(activation), weight, bias, DEPTH).correlation[:-1]
            label = rf"$\sigma_w^2$ = {weight:g}, $\sigma_b^2$ = {bias:g}"
            axes.plot(np.arange(1, DEPTH), theory, color=colour, linewidth=1, label=label)
        for text in axes.legend(frameon=False, fontsize=7).get_texts():
            text.set_parse_math(True)
        axes.set(title=str(activation), xlabel="layer", ylim=(-0.02, 1.02))
    figure.axes[0].set_ylabel("correlation")
    return figure


def phases(table: pd.DataFrame) -> Figure:
    """The correlation over both variances, by the theory and as measured, and the edges of deep networks."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (activation, part) in zip(grid, table.groupby("activation"), strict=True):
        measured = part.pivot_table(index="bias_variance", columns="weight_variance", values="correlation")
        weights, biases = np.linspace(0.25, 4.25, FINE), np.linspace(0.02, 1.1, FINE)
        theory = [[propagate(str(activation), w, b, DEPTH).correlation[-2] for w in weights] for b in biases]
        fields = [(weights, biases, theory, "theory"), (measured.columns, measured.index, measured, "measured")]
        for axes, (x, y, values, title) in zip(row, fields, strict=True):
            shown = axes.pcolormesh(x, y, np.asarray(values), vmin=0, vmax=1, shading="nearest")
            axes.set(xlim=(0.25, 4.25), ylim=(0.0, 1.1), title=f"{activation}, {title}")
            draw_edges(axes, str(activation))
        row[0].set_ylabel(r"bias variance $\sigma_b^2$", parse_math=True)
    for axes in grid[-1]:
        axes.set_xlabel(r"weight variance $\sigma_w^2$", parse_math=True)
    figure.colorbar(shown, ax=list(grid.flat)).set_label(f"correlation in layer {DEPTH - 1}")
    handles = [Line2D([], [], color="black", linestyle=dash, label=name) for name, (_, dash) in EDGES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def norms(table: pd.DataFrame) -> Figure:
    """Drift ratio against depth with a norm in each place: points are networks, lines the theory."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for colour, norm in zip(COLOURS[::2], NORMS, strict=True):
        part = table[table["norm"] == norm]
        axes.plot(part["layer"], part["drift_ratio"], "o", color=colour, markersize=1.5, alpha=0.5)
        theory = propagate("relu", *NORM_AT, DEPTH, norm=norm).drift_ratio[:-1]
        axes.plot(np.arange(1, DEPTH), theory, color=colour, linewidth=1, label=norm)
    log_axis(axes)
    axes.set(xlabel="layer", ylabel="drift ratio")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def shares(table: pd.DataFrame) -> Figure:
    """The share of the first of two classes over networks, and its density."""
    figure = Figure(figsize=(7.2, 2.3), layout="constrained")
    at = np.linspace(0.002, 0.998, 400)
    for axes, (ratio, part) in zip(figure.subplots(1, 3), table.groupby("drift_ratio"), strict=True):
        axes.hist(
            part["guess_fraction"], np.linspace(0, 1, 26).tolist(), density=True, color=COLOURS[1], label="networks"
        )
        axes.plot(at, guesses(float(ratio), 2).density(at), color=COLOURS[6], label="theory")
        axes.set(title=f"drift ratio {ratio:g}", xlabel="share of the first class", ylim=(0, None))
    figure.axes[0].set_ylabel("density over networks")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


def resnet(table: pd.DataFrame) -> Figure:
    """The drift ratio of each layer with weights of ResNet-50, by running and by batch statistics."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for colour, (mode, part) in zip((COLOURS[6], COLOURS[0]), table.groupby("batch_norm", sort=False), strict=True):
        for seed, run in part.groupby("seed"):
            axes.plot(run["depth"], run["drift_ratio"], "o-", color=colour, markersize=1.5, linewidth=0.6,
                      label=f"{mode} statistics" if seed == 0 else None)  # fmt: skip
    first = table[(table["seed"] == 0) & (table["batch_norm"] == "running")]
    for stage in range(1, 5):
        start = first.loc[first["layer"].str.startswith(f"layer{stage}."), "depth"].min()
        axes.axvline(start - 0.5, color="0.7", linewidth=0.8)
        axes.text(start, 1.01, f"stage {stage}", fontsize=7, transform=axes.get_xaxis_transform())
    log_axis(axes)
    axes.set(xlabel="layer with weights, in order", ylabel="drift ratio")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Measure, where asked to, draw, and fill in the page."""
    parser = argparse.ArgumentParser(prog="python -m reproduction.theory", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the CSV files and figures")
    parser.add_argument("stages", type=Path, help="folder of the CSV files of the stages that train")
    parser.add_argument("page", type=Path, nargs="?", help="whose tables are filled in")
    parser.add_argument("--measure", action="store_true", help="write the CSV files first")
    parser.add_argument("--networks", type=int, help="measure no more of a kind")
    parser.add_argument("--cifar10", type=shlex.split, default=[], help="overrides of a config with CIFAR-10")
    parser.add_argument("--fashion-mnist", type=shlex.split, default=[], help="the same with Fashion-MNIST")
    given = parser.parse_args()
    with one_line_exit():
        if given.measure:
            given.folder.mkdir(parents=True, exist_ok=True)
            measure_all(given.folder, given.cifar10, given.fashion_mnist, given.networks)
        frames = {**read(given.folder), **read(given.stages)}
        if missing := [name for name in (*MEASURED, *claims.STAGES) if name not in frames]:
            raise InputError(
                f"{given.folder} and {given.stages} have no {', '.join(f'{name}.csv' for name in missing)}"
            )
        draw_all(given.folder, frames)
        if given.page:
            tables = {name: tabulate(frames) for name, tabulate in claims.TABLES.items()}
            text = fill(given.page.read_text(encoding="utf-8"), tables, claims.numbers(frames))
            given.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
