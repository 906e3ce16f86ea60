"""The page: one HTML file that needs no network, with the answer, the charts, the tables and the provenance."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from igb import _plots
from igb._files import replacing
from igb.folder.schema import LABELS
from igb.report import figures
from igb.report.comparison import compared, quantities, scatters
from igb.report.landscape import LossCurve, loss_curves, weight_range
from igb.report.metrics import Censored, grouped
from igb.report.regime import MEASURES, RegimeMap
from igb.report.runs import OVERALL, Run
from igb.report.settings import Curves, Panel, Setting
from igb.report.summary import COLUMN_HELP
from igb.report.verdict import answer, of_theory, of_wrong_labels, overview

ASSETS = Path(__file__).parent / "assets"
KEPT_FIRST = 10  # batches that thinning always keeps
POINTS, FEWEST_POINTS = 400, 40  # of a curve
MOST_BYTES = 4_000_000  # of all curves
# The quantities that the explorer offers, and their labels.
EXPLORED = {
    "probability": "p̄: mean probability of the class, over its own images",
    "accuracy": "accuracy",
    "mean_probability": "mean probability of the class, over all images",
    "guess_fraction": "guess fraction: share of all images assigned to the class",
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "active_fraction": "active fraction: share of images with a gradient",
    "gradient_share": "share of the class in the gradient norm",
    "weight": "weight: what the loss lets through of the gradient of cross-entropy",
    "drift_ratio": "drift ratio: how far the class's mean logit is from that of all, in variances of logits",
}
# What the page explains where a pointer or the keyboard rests on the word.
TERMS = {
    "guess": "The class that a network assigns to an image, that of its largest output.",
    "escaped": "From some probe to the last, no class took {threshold:g} % or more of all guesses.",
    "p̄": "The probability that the network gives a class, as a mean over test images of that class. 1 / number of "
    "classes is chance.",
    "initialisation": "Before the first step of training. Nothing has been learned, so that any preference for a class "
    "is the network's own.",
    "setting": "Runs that differ in nothing but their seeds.",
    "gradient": "That of the loss with respect to the outputs of the network; an image without one teaches nothing.",
    "weight": "What a loss lets through of the gradient of cross-entropy: 1 is all, 0 nothing, below 0 the wrong way.",
    "p_y": "The probability that the network gives the true class of an image.",
    "dominance": "The share of all guesses that the most guessed class takes.",
    "trapped": "At its last probe one class still takes {threshold:g} % or more of all guesses.",
    "escape step": "The first probe from which no class takes {threshold:g} % or more of all guesses to the end.",
    "memorised": "A wrong label that the network has come to predict.",
}


def write_page(
    path: Path,
    panels: Sequence[Panel],
    tables: Sequence[tuple[str, pd.DataFrame]],
    maps: Sequence[RegimeMap],
    pictures: Mapping[str, bytes],
    notes: Sequence[str],
    threshold: float,
) -> None:
    """Write the page: panels, tables with their titles, regime maps, PNG pictures, notes such as on left-out runs."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True)
    runs = list({id(run): run for panel in panels for run in panel.runs}.values())
    names, curves, (labels, _) = panels[0].names, loss_curves(runs), compared(panels)
    data, notes = _data(panels, notes, threshold)
    text = environment.get_template("page.html").render(
        assets={file.name: Markup(file.read_text(encoding="utf-8")) for file in ASSETS.glob("*.[cj]s*")},  # igb's
        overview=_unbroken(overview(panels, threshold)),
        answer=[(title, _unbroken(text)) for title, text in answer(panels, threshold)],
        notes=notes,
        names=names,
        colours=_colours(len(names)),
        loss_colours=_colours(len(curves)),
        settings=labels,
        setting_colours={
            theme: _plots.setting_colours(len(labels), dark=theme == "dark") for theme in ("light", "dark")
        },
        label_colours=_label_colours(),
        scatters=scatters(panels, threshold),
        of_wrong_labels=of_wrong_labels(panels),
        of_theory=of_theory(panels),
        terms={name: text.format(threshold=100 * threshold) for name, text in TERMS.items()},
        initial={align: [_initial(panel.aligned(align)) for panel in panels] for align in _alignments(panels)},
        tables=[_table(title, table) for title, table in tables],
        help={name: text.format(threshold=threshold) for name, text in COLUMN_HELP.items()},
        explained={"rise_step"}.union(*(table.columns for _, table in tables)),
        loss_curves=curves,
        along=lambda p: 100 * (1 - math.log10(p) / math.log10(curves[0].p[0])),
        maps=maps,
        measures=MEASURES,
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
        explored=EXPLORED,
        runs=[_provenance(run) for run in runs],
        threshold=threshold,
        data=data,
        loss_data=_json(_losses(curves)),
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _unbroken(text: str) -> str:
    """The text with a number and its per cent sign on one line."""
    return text.replace(" %", "\u00a0%")


def is_page(path: Path) -> bool:
    """Whether a file is a page of `write_page`, of this version or an earlier one."""
    return "– igb report</title>" in path.read_text(encoding="utf-8", errors="replace")[:2000]


def thinned(steps: Sequence[int], points: int) -> list[int]:
    """About `points` indices into ascending `steps`: the first ten batches, the last, and log-spaced ones between."""
    last = len(steps) - 1
    first = [place for place, step in enumerate(steps) if step <= KEPT_FIRST]
    if len(steps) <= points or len(first) > last:
        return list(range(len(steps)))
    kept, more = first, points
    while len(kept) < points:  # there may be fewer probes than log-spaced places
        wanted = np.geomspace(steps[len(first)], steps[-1], more)
        chosen = sorted({*first, *np.searchsorted(steps, wanted).clip(max=last).tolist(), last})
        if len(chosen) > points and kept is not first:
            break
        kept, more = chosen, more + more // 8
    return kept


def _colours(count: int) -> dict[str, list[str]]:
    return {"light": _plots.class_colours(count), "dark": _plots.dark_colours(count)}


def _label_colours() -> dict[str, list[str]]:
    """The colours of the lines of a chart of memorisation."""
    schemes = {"light": _plots.COLOURS, "dark": _plots.DARK_COLOURS}
    return {
        theme: [scheme[colour] for _, colour, _ in figures.MEMORISATION_LINES.values()]
        for theme, scheme in schemes.items()
    }


def _data(panels: Sequence[Panel], notes: Sequence[str], threshold: float) -> tuple[Markup, list[str]]:
    """The data of the charts, and the notes, with one more if the data of single runs do not fit.

    The data are the panels and, for each panel of several runs, each of those runs.
    """
    first, last = figures.epoch_range(panels)
    several = [(at, panel) for at, panel in enumerate(panels) if len(panel.runs) > 1]
    labels, modes = compared(panels)

    def encoded(points: int, with_runs: bool = True) -> Markup:
        runs = [_run(panel, at, number, points) for at, panel in several for number in range(len(panel.runs))]
        return _json(
            {
                "names": panels[0].names,
                "class_names": panels[0].runs[0].class_names,
                "first": first,
                "last": last,
                "ticks": figures.epoch_ticks(first, last),
                "settings": labels,
                "threshold": threshold,
                "overall": {name: OVERALL[name] for name in quantities(panels)},
                "modes": {
                    mode: {number: panels.index(panel) for number, panel in of_mode.items()}
                    for mode, of_mode in modes.items()
                },
                "label_lines": [
                    {"column": column, "name": name, "dash": [2 * part for part in dash]}
                    for column, (name, _, dash) in figures.MEMORISATION_LINES.items()
                ],
                "panels": [_panel(panel, points, of_setting=True) for panel in panels] + (runs if with_runs else []),
            }
        )

    if several and len(encoded(FEWEST_POINTS)) > MOST_BYTES:
        note = "the explorer shows only means over seeds: there are too many runs to show each of them"
        return encoded(FEWEST_POINTS, with_runs=False), [*notes, note]
    points = POINTS
    while len(text := encoded(points)) > MOST_BYTES and points > FEWEST_POINTS:
        points = max(int(0.95 * points * MOST_BYTES / len(text)), FEWEST_POINTS)
    return text, list(notes)


def _panel(panel: Panel, points: int, *, of_setting: bool) -> dict[str, Any]:
    """A panel's data; if aligned by favoured rank, also what is needed to show it class by class."""
    steps = panel.curves("probability").steps
    kept = thinned(steps, points)
    drawn: dict[str, Any] = {
        "title": panel.title.replace("\n", " "),
        "of_setting": of_setting,
        "count": panel.count,
        "steps_per_epoch": panel.steps_per_epoch,
        "steps": [steps[place] for place in kept],
        "curves": {quantity: _curves(panel.curves(quantity), kept) for quantity in EXPLORED},
    }
    if of_setting:
        drawn["overall"] = {
            quantity: [_short(value) for value in panel.curves(quantity).mean[kept, 0].tolist()]
            for quantity in OVERALL
            if "." not in quantity
        }
    if of_setting and panel.has_wrong_labels:
        drawn["labels"] = _labels(panel, points)
    if panel.align == "favoured":
        drawn["orders"] = [panel.order(run) for run in panel.runs]
        if len(panel.runs) > 1:  # the means differ between alignments
            other = panel.aligned("class")
            drawn["by_class"] = {quantity: _curves(other.curves(quantity), kept, each=False) for quantity in EXPLORED}
    return drawn


def _labels(panel: Panel, points: int) -> dict[str, Any]:
    """What the runs of a panel make of clean and of wrong labels: for each a list for each line."""
    steps = panel.curves("wrong.count").steps
    kept = thinned(steps, points)

    def line(labels: str, column: str) -> list[float | None]:
        if labels == "clean" and column in figures.ONLY_WRONG:
            return [None] * len(kept)
        return [_short(value) for value in panel.curves(f"{labels}.{column}").mean[kept, 0].tolist()]

    drawn: dict[str, Any] = {
        labels: [line(labels, column) for column in figures.MEMORISATION_LINES] for labels in LABELS
    }
    return drawn | {"steps": [steps[place] for place in kept]}


def _run(panel: Panel, at: int, number: int, points: int) -> dict[str, Any]:
    """One run of panel number `at`: its data, or a reference if the panel has them already."""
    run = panel.runs[number]
    title = run.label + panel.title.removeprefix(panel.setting.label)
    if panel.curves("probability").few:
        return {"title": title.replace("\n", " "), "of_setting": False, "count": "", "of": at, "run": number}
    return _panel(Panel(Setting(run.label, [run]), panel.mode, title, panel.align), points, of_setting=False)


def _curves(curves: Curves, kept: Sequence[int], *, each: bool = True) -> dict[str, Any]:
    """The values of a quantity, a list for each class: means and bounds, or with few seeds `each` of them."""

    def columns(values: Any) -> list[list[float | None]]:
        return [[_short(value) for value in column] for column in values[kept].T.tolist()]

    drawn: dict[str, Any] = {"mean": columns(curves.mean)}
    if curves.few and each:
        drawn["each"] = [columns(values) for values in curves.each]
    elif max(curves.n) > 1 and not curves.few:
        drawn |= {"low": columns(curves.low), "high": columns(curves.high)}
    return drawn


def _losses(curves: Sequence[LossCurve]) -> dict[str, Any]:
    """The loss landscape at the points of all curves."""
    p = np.unique(np.concatenate([curve.p for curve in curves])) if curves else np.array([])
    low, high = weight_range(curves) if curves else (0.0, 0.0)
    return {
        "p": p.tolist(),
        "curves": [
            {
                "name": curve.name,
                "loss": [_short(value) for value in np.interp(p, curve.p, curve.loss)],
                "gradient": [_short(value) for value in np.interp(p, curve.p, curve.gradient)],
                "weight": [
                    _short(value) if low <= value <= high else None for value in np.interp(p, curve.p, curve.weight)
                ],
            }
            for curve in curves
        ],
    }


def _short(value: float) -> float | None:
    """A number to three digits; None if it is not finite, which JSON cannot express."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _json(data: Any) -> Markup:
    """JSON that is safe inside a script element, whatever its strings hold."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # "</script>" cannot occur


def _alignments(panels: Sequence[Panel]) -> list[str]:
    """The alignments that the page offers, that of the panels first."""
    return list(dict.fromkeys([panels[0].align, "class"]))


def _initial(panel: Panel) -> dict[str, Any]:
    """The bars of Figure 1: each class over its own images and over all, with bounds, or with few seeds the range."""
    own, over_all = panel.curves("probability"), panel.curves("mean_probability")
    low, high = (own.each[:, 0].min(0), own.each[:, 0].max(0)) if own.few else (own.low[0], own.high[0])
    return {
        "title": panel.title.replace("\n", " "),
        "count": panel.count,
        "bars": [
            {"name": name, "own": own.mean[0, k], "over_all": over_all.mean[0, k], "low": low[k], "high": high[k]}
            for k, name in enumerate(panel.names)
        ],
    }


def _provenance(run: Run) -> dict[str, Any]:
    known = {key: value for key, value in run.info.items() if key not in ("config", "class_names", "status")}
    return {
        "label": run.label,
        "status": run.unfinished or run.info["status"],
        "folder": str(run.folder),
        "overrides": " ".join(f"{key}={value}" for key, value in run.overrides.items()),
        "facts": yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=100),
        "config": yaml.safe_dump(run.info.get("config", {}), sort_keys=False, allow_unicode=True, width=100),
    }


def _table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    """A table as strings: a mean and its bounds share a cell; status and batch-norm mode are left out if constant."""
    bounds = [column for column in table.columns if column.endswith(("_low", "_high"))]
    same = [column for column in ("status", "batch_norm") if column in table and table[column].nunique() == 1]
    columns = [
        column for column in table.columns if column not in (*bounds, *same) and not column.startswith("config.")
    ]
    rows = []
    for row in table.to_dict("records"):
        cells = []
        for column in columns:
            text, is_number = _cell(row[column])
            low, high = (row.get(f"{column}_{bound}", math.nan) for bound in ("low", "high"))
            cells.append((f"{text} ({low:.3g} to {high:.3g})" if low == low else text, is_number))
        rows.append(cells)
    return {"title": title, "columns": columns, "rows": rows}


def _cell(value: Any) -> tuple[str, bool]:
    """A value of a table as text, and whether it is a number."""
    if isinstance(value, Censored):
        return f">{value.step:,}", True
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–", False
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value), False
    number = float(value)
    is_large = isinstance(value, int | np.integer) or abs(number) >= 1000
    return (grouped(number) if is_large else f"{number:.3g}"), True
