"""Figures and tables from run folders. It knows only what the folders hold and imports no training code."""

from collections.abc import Sequence
from pathlib import Path

from igb._checks import InputError
from igb._paths import log_path
from igb.report import figures
from igb.report.runs import Run, find_runs, load_runs
from igb.report.summary import summarize

__all__ = ["Run", "find_runs", "load_runs", "summarize", "write"]


def write(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write Figures 1 and 2 and the summary table of all runs in `folders`; return the folder they are in.

    That is `report` in the first of the folders unless `output` names another. Raises InputError where there is
    nothing to show or the folder cannot be written.
    """
    runs, left_out = find_runs(folders)
    for reason in left_out:
        print(f"left out: {reason}")
    if not runs:
        raise InputError(f"there is no run with a probe in {', '.join(map(str, folders))}")
    if len({tuple(run.class_names) for run in runs}) > 1:
        raise InputError("the runs have different classes; give those of one data set at a time")
    output = output if output is not None else folders[0] / "report"
    summary = summarize(runs)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, draw in (("figure1", figures.figure1), ("figure2", figures.figure2)):
            figures.save(draw(runs), output / name)
        summary.to_csv(output / "summary.csv", index=False)
    except OSError as error:
        raise InputError(f"the report folder {output} cannot be written ({error.strerror})") from error
    print(summary.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    for run in runs:
        if run.unfinished:
            print(f"unfinished: {run.label}: {run.unfinished}; see {log_path(run.folder)}")
    print(f"figure1 and figure2 (.png, .pdf) and summary.csv are in {output}")
    return output
