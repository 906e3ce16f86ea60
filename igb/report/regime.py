"""The regime map: where in the plane of two swept keys runs escape, and how well they end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd

from igb.report.escape import THRESHOLD, Censored, Moment
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
LOW_IS_GOOD = ("escape_step", "dominance_end")
COLOUR_MAP = "viridis"


@dataclass(frozen=True)
class Cell:
    """One setting in one measure: what is written there, and its colours, as hex."""

    text: str
    colour: str
    ink: str


@dataclass(frozen=True)
class RegimeMap:
    """Settings over two keys, all else the same: a grid of cells [y, x] for each measure; None where there is none."""

    title: str
    x_key: str
    y_key: str
    x_values: list[Any]
    y_values: list[Any]
    cells: dict[str, list[list[Cell | None]]]


def regime_maps(runs: Sequence[Run], threshold: float = THRESHOLD) -> list[RegimeMap]:
    """Maps over the two keys that say most, one for each combination of the other keys; none for fewer than two keys.

    Across goes the key of numbers with the most values, or with the most values at all; down the next.
    """
    table = summarize_settings(runs, threshold)
    values = {key: _ordered(table[f"config.{key}"]) for key in swept(runs)}
    keys = sorted(values, key=lambda key: (all(map(_is_number, values[key])), len(values[key])), reverse=True)
    if len(keys) < 2:
        return []
    x_key, y_key = keys[0], max(keys[1:], key=lambda key: len(values[key]))
    others = [key for key in swept(runs) if key not in (x_key, y_key)]
    several_modes = table["batch_norm"].nunique() > 1
    longest = max(_number(moment) for moment in table["escape_step"])
    maps = []
    for fixed, group in table.groupby([*(f"config.{key}" for key in others), "batch_norm"], sort=False, dropna=False):
        title = ", ".join(f"{key}={value}" for key, value in zip(others, fixed, strict=False))
        mode = f"{fixed[-1]} statistics" if several_modes else ""
        by_place: dict[tuple[str, str], Any] = {}
        for _, row in group.iterrows():
            by_place.setdefault((str(row[f"config.{y_key}"]), str(row[f"config.{x_key}"])), row)
        cells = {
            measure: [
                [_cell(measure, by_place.get((str(y), str(x))), longest) for x in values[x_key]] for y in values[y_key]
            ]
            for measure in MEASURES
        }
        heading = ", ".join(filter(None, (title, mode)))
        maps.append(RegimeMap(heading, x_key, y_key, values[x_key], values[y_key], cells))
    return maps


def _cell(measure: str, row: "pd.Series[Any] | None", longest: float) -> Cell | None:
    if row is None:
        return None
    value = row[measure]
    if measure == "escape_step":
        place = math.log1p(_number(value)) / math.log1p(longest) if longest else 0.0
        text = f">{value.step:,}" if isinstance(value, Censored) else f"{value:,g}"
        place = 1.0 if isinstance(value, Censored) else 0.9 * place  # what has not escaped stands out
    else:
        place, text = float(value), f"{value:.2f}"
    if not math.isfinite(place):
        return Cell("-", "#bbbbbb", "#000000")
    place = min(max(place, 0.0), 1.0)
    rgb = mpl.colormaps[COLOUR_MAP](1 - place if measure in LOW_IS_GOOD else place)[:3]
    luminance = sum(weight * channel for weight, channel in zip((0.299, 0.587, 0.114), rgb, strict=True))
    return Cell(text, mpl.colors.to_hex(rgb), "#000000" if luminance > 0.5 else "#ffffff")


def _number(moment: Moment | float) -> float:
    return moment.step if isinstance(moment, Censored) else moment


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(column: "pd.Series[Any]") -> list[Any]:
    """The values of a column once each: numbers by size, anything else as it came."""
    values = list({str(value): value for value in column.tolist()}.values())
    return sorted(values) if all(map(_is_number, values)) else values
