"""Figures, tables and a page from run folders. It knows only what the folders hold and imports no training code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from csv import QUOTE_MINIMAL, QUOTE_NONNUMERIC
from pathlib import Path

import pandas as pd

from igb import _checks
from igb._checks import InputError
from igb._files import make_folder
from igb.folder.schema import class_title, log_path
from igb.folder.state import repeated_epoch
from igb.report import figures
from igb.report.board import write_board
from igb.report.comparison import scatters
from igb.report.landscape import loss_curves
from igb.report.matrices import Matrices, load_matrices
from igb.report.metrics import THRESHOLD
from igb.report.page import is_page, write_page
from igb.report.prediction import predictions
from igb.report.regime import regime_maps
from igb.report.runs import Run, find_runs, find_runs_or_raise, load_runs, table_of
from igb.report.settings import ALIGNMENTS, Panel, panels, swept
from igb.report.summary import summarize, summarize_classes, summarize_settings

__all__ = [
    "Matrices", "Run", "find_runs", "load_matrices", "load_runs", "summarize", "summarize_classes",
    "summarize_settings", "write",
]  # fmt: skip

FIGURES = ("figure1", "figure2", "comparison", "memorisation", "theory", "drivers", "loss_landscape", "regime_map")
TABLES = ("summary.csv", "classes.csv", "settings.csv", "runs.csv", "runs.parquet")
FILES = (*TABLES, *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")))  # beside the page
MOST_PANELS = 40  # in a figure file; the page has all


def write(
    folders: Sequence[Path],
    output: Path | None = None,
    *,
    align: str | None = None,
    threshold: float = THRESHOLD,
    csv: bool = False,
    parquet: bool = False,
) -> Path:
    """Write the page, figures and tables of all runs in `folders`; return the folder they are in.

    Args:
        folders: runs and sweeps.
        output: the folder to write to; by default `report` in the first of `folders`.
        align: how to match classes over seeds: by their number (`class`) or by their rank in the initial guess
            fraction of their own run (`favoured`); by default by rank if the seeds of a setting favour different
            classes.
        threshold: dominance below which a run has escaped.
        csv: also write the table of `load_runs` as runs.csv.
        parquet: also write it as runs.parquet.

    Raises InputError if there is nothing to show, or the folder cannot be written or has someone else's files.
    """
    if align is not None:
        _checks.choice("align", align, ALIGNMENTS)
    _checks.number("threshold", threshold, at_least=0, at_most=1)
    runs, left_out = find_runs_or_raise(folders)
    runs, others = _of_the_same_classes(runs)
    shown, maps, curves = panels(runs, align), regime_maps(runs, threshold), loss_curves(runs)
    summary = summarize(runs, threshold)
    notes = [f"left out: {reason}" for reason in left_out + others] + _notes(runs, shown, threshold)
    if len(shown) > MOST_PANELS:
        notes.append(f"the figures show the first {MOST_PANELS} of {len(shown)} settings; the page shows all")
    if len(swept(runs)) > 1 and not maps:
        notes.append(f"there is no regime map: {', '.join(swept(runs))} were not swept over a grid")
    of_settings = summarize_settings(runs, threshold)
    tables = {"summary": summary, "classes": summarize_classes(runs)}
    if of_settings["n"].max() > 1:
        tables["settings"] = of_settings
    print(summary.to_string(index=False, float_format=_printed, na_rep="-"))
    for note in notes:
        print(note)
    on_paper = shown[:MOST_PANELS]
    output = make_folder(output if output is not None else folders[0] / "report", exclusively=False)
    page = output / "index.html"
    try:
        if page.exists():
            foreign = [] if is_page(page) else [page.name]
        else:
            foreign = [name for name in FILES if (output / name).exists()]
        if foreign:
            raise InputError(
                f"{output} has {', '.join(foreign)} which igb-report would overwrite but did not write; "
                "give an empty folder as --output"
            )
        predicted = predictions(shown)
        drawn = {"theory": figures.png(figures.theory(predicted))} if predicted else {}
        tables_shown = _tables_on_page(tables, runs)
        write_page(page, shown, tables_shown, maps, drawn, notes, threshold)  # which marks the folder as ours
        for name in FILES:  # of an earlier report
            (output / name).unlink(missing_ok=True)
        figures.save(figures.figure1(on_paper), output / "figure1")
        figures.save(figures.over_training(on_paper, figures.FIGURE_2), output / "figure2")
        figures.save(figures.over_training(on_paper, figures.DRIVERS), output / "drivers")
        if len({panel.setting.label for panel in on_paper}) > 1:
            figures.save(figures.comparison(on_paper, scatters(on_paper, threshold)), output / "comparison")
        if noisy := [panel for panel in on_paper if panel.has_wrong_labels]:
            figures.save(figures.memorisation(noisy), output / "memorisation")
        if predicted:
            figures.save(figures.theory(predicted), output / "theory")
        if curves:
            figures.save(figures.loss_landscape(curves), output / "loss_landscape")
        if maps:
            figures.save(figures.regime_map(maps), output / "regime_map")
        for name, table in tables.items():
            _write_table(table, output / f"{name}.csv")
        if csv:
            _write_table(table_of(runs), output / "runs.csv")
        if parquet:
            table_of(runs).to_parquet(output / "runs.parquet", index=False)
        pictures = {title: output / f"{title}.png" for title in ("figure1", "figure2")}
        write_board(output / "tensorboard", runs, summary, pictures)
    except OSError as error:
        raise InputError(f"the report folder {output} cannot be written ({error.strerror or error})") from error
    print(f"the page is {page}; figures (.png, .pdf) and tables (.csv) are beside it")
    return output


def _printed(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e5 else f"{value:.3g}"


def _tables_on_page(tables: Mapping[str, pd.DataFrame], runs: Sequence[Run]) -> list[tuple[str, pd.DataFrame]]:
    """The tables that the page shows, each with its title."""
    titles = {"settings": "Over seeds", "summary": "Run by run"}
    on_page = [(title, tables[name]) for name, title in titles.items() if name in tables]
    summary = tables["summary"]
    rises = tables["classes"].pivot(index=["run", "batch_norm"], columns="class", values="rise_step")
    rises = rises.loc[list(zip(summary["run"], summary["batch_norm"], strict=True))]
    headings = [class_title(k, name) for k, name in enumerate(runs[0].class_names)]
    rises = rises.set_axis(headings, axis=1).reset_index()
    return [*on_page, ("Class by class: first step from which p̄ stays above 1.5 times chance", rises)]


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table; all texts are quoted where one has a carriage return, which csv leaves bare before Python 3.13."""
    texts = table.select_dtypes(["object", "category", "string"])
    bare = any(isinstance(value, str) and "\r" in value for name in texts for value in texts[name].unique())
    table.to_csv(path, index=False, quoting=QUOTE_NONNUMERIC if bare else QUOTE_MINIMAL)


def _of_the_same_classes(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs with the most common list of classes, and a line for each of the others."""
    most = Counter(tuple(run.class_names) for run in runs).most_common(1)[0][0]
    kept = [run for run in runs if tuple(run.class_names) == most]
    others = [
        f"{run.folder}: its {len(run.class_names)} classes are not those of {kept[0].folder}; report it separately"
        for run in runs
        if tuple(run.class_names) != most
    ]
    return kept, others


def _notes(runs: Sequence[Run], shown: Sequence[Panel], threshold: float) -> list[str]:
    """Notes on the runs that are shown."""
    notes = [f"unfinished: {run.label}: {run.unfinished}; see {log_path(run.folder)}" for run in runs if run.unfinished]
    for run in runs:
        if wrong := repeated_epoch(run.folder, run.info, int(run.metrics["step"].iloc[-1])):
            notes.append(wrong)
    classes = len(runs[0].class_names)
    if threshold * classes <= 1:
        notes.append(
            f"no run can escape: of {classes} classes one always takes {1 / classes:.2g} of the guesses or more; "
            "give a higher --threshold"
        )
    if mixed := [panel.setting.label for panel in shown if panel.is_mixed]:
        seeds = f"the seeds of {mixed[0]} favour different classes"
        if shown[0].align == "favoured":
            notes.append(
                f"{seeds}, so classes are matched by their rank at initialisation; --align class matches them by number"
            )
        else:
            notes.append(f"{seeds}; --align favoured matches classes by rank")
    return notes
