"""The regime map: where in the plane of two swept keys runs escape, and how good they are at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from igb import theory
from igb.report.metrics import THRESHOLD, Censored, EventTime, grouped
from igb.report.prediction import activation_of_plane
from igb.report.runs import Run
from igb.report.settings import swept
from igb.report.summary import summarize_settings

# Bright is good: early escape, little dominance, high accuracy.
MEASURES = {
    "escape_step": "escape step",
    "dominance_end": "dominance at the end",
    "mean_accuracy": "mean accuracy at the end",
    "worst_accuracy": "worst class's accuracy",
}
PLANE = ("init.weight_variance", "init.bias_variance")  # of the mean-field theory
LOW_IS_GOOD = ("escape_step", "dominance_end")
COLOUR_MAP = "viridis"
FULL = 0.25  # share of the cells of all maps that must have a run
MOST_MAPS = 24


@dataclass(frozen=True)
class Cell:
    """One setting in one measure: the cell's text, fill colour and text colour, as hex."""

    text: str
    colour: str
    ink: str


@dataclass(frozen=True)
class RegimeMap:
    """Settings over two keys, all else equal: for each measure a grid of cells [y, x], None where nothing was run."""

    title: str
    x_key: str
    y_key: str
    x_values: list[str]
    y_values: list[str]
    cells: dict[str, list[list[Cell | None]]]
    edges: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # lines by name, in cells: (x, y)


def regime_maps(runs: Sequence[Run], threshold: float = THRESHOLD) -> list[RegimeMap]:
    """Maps over the two swept keys with the most values, one for each combination of the others.

    The x axis is the numeric key with the most values, or any key if none is numeric; the y axis is the next. There is
    no map for fewer than two keys, or if most cells would be empty, as in a random search.
    """
    keys = swept(runs)
    table = summarize_settings(runs, threshold)
    values = {key: _ordered(table[f"config.{key}"]) for key in keys}
    ranked = sorted(keys, key=lambda key: (any(map(_is_number, values[key])), len(values[key])), reverse=True)
    if len(keys) < 2:
        return []
    x_key, y_key = ranked[0], max(ranked[1:], key=lambda key: len(values[key]))
    others = [f"config.{key}" for key in keys if key not in (x_key, y_key)]
    groups: dict[tuple[str, ...], list[Any]] = {}
    for row in table.to_dict("records"):
        groups.setdefault(tuple(_text(row[column]) for column in [*others, "batch_norm"]), []).append(row)
    if len(table) < FULL * len(groups) * len(values[x_key]) * len(values[y_key]):
        return []
    several_modes = table["batch_norm"].nunique() > 1
    longest = max(map(_number, table["escape_step"]))
    maps = []
    for fixed, rows in list(groups.items())[:MOST_MAPS]:
        titles = [f"{key.removeprefix('config.')}={value}" for key, value in zip(others, fixed, strict=False)]
        if several_modes:
            titles.append(f"{fixed[-1]} statistics")
        by_place: dict[tuple[str, str], Any] = {}
        for row in rows:
            by_place.setdefault((_text(row[f"config.{y_key}"]), _text(row[f"config.{x_key}"])), row)
        x_values, y_values = ([_text(value) for value in values[key]] for key in (x_key, y_key))
        cells = {
            measure: [[_cell(measure, by_place.get((y, x)), longest) for x in x_values] for y in y_values]
            for measure in MEASURES
        }
        edges = {}
        in_plane = {x_key, y_key} == set(PLANE) and all(map(_is_number, [*values[x_key], *values[y_key]]))
        alike = (
            run for run in runs if fixed[:-1] == tuple(_text(run.value(key.removeprefix("config."))) for key in others)
        )
        if in_plane and (activation := activation_of_plane(next(alike), fixed[-1])):
            edges = _edges(activation, values, x_key == PLANE[0])
        maps.append(RegimeMap(", ".join(titles), x_key, y_key, x_values, y_values, cells, edges))
    return maps


def _edges(
    activation: str, values: Mapping[str, list[Any]], weights_across: bool
) -> dict[str, list[tuple[float, float]]]:
    """The edge of chaos and the neutral edge in a plane of weight and bias variances, where they cross it."""
    weights, biases = (values[key] for key in PLANE)
    found = {}
    for name, edge in {"edge of chaos": theory.edge_of_chaos, "neutral edge": theory.neutral_edge}.items():
        line = []
        for bias in np.linspace(biases[0], biases[-1], 33):
            weight = edge(activation, float(bias))
            if weights[0] <= weight <= weights[-1]:
                at = (
                    float(np.interp(weight, weights, range(len(weights)))),
                    float(np.interp(bias, biases, range(len(biases)))),
                )
                line.append(at if weights_across else at[::-1])
        if line:
            found[name] = line
    return found


def _cell(measure: str, row: dict[str, Any] | None, longest: float) -> Cell | None:
    if row is None:
        return None
    value = row[measure]
    if measure == "escape_step":
        place = math.log1p(_number(value)) / math.log1p(longest) if longest else 0.0
        text = f">{value.step:,}" if isinstance(value, Censored) else grouped(value)
        place = 1.0 if isinstance(value, Censored) else 0.9 * place  # a run that has not escaped stands out
    else:
        place, text = float(value), f"{value:.2f}"
    if not math.isfinite(place):
        return Cell("-", "#bbbbbb", "#000000")
    place = min(max(place, 0.0), 1.0)
    rgb = mpl.colormaps[COLOUR_MAP](1 - place if measure in LOW_IS_GOOD else place)[:3]
    luminance = sum(weight * channel for weight, channel in zip((0.299, 0.587, 0.114), rgb, strict=True))
    return Cell(text, mpl.colors.to_hex(rgb), "#000000" if luminance > 0.5 else "#ffffff")


def _number(event_time: EventTime | float) -> float:
    return event_time.step if isinstance(event_time, Censored) else event_time


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _ordered(column: "pd.Series[Any]") -> list[Any]:
    """The values of a column once each: numbers by size, then the others in order of appearance."""
    values = list({_text(value): value for value in column.tolist()}.values())
    numbers = sorted(value for value in values if _is_number(value))
    return numbers + [value for value in values if not _is_number(value)]
