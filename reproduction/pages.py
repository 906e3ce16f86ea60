"""The pages on the paper, filled in from the CSV files."""

import os
from pathlib import Path

from reproduction import matrix, tables, verdicts
from reproduction.common import fill, read
from reproduction.numbers import numbers

TABLES = {**verdicts.TABLES, **matrix.TABLES, **tables.TABLES}


def filled(page: Path, folder: Path) -> str:
    """The text of a page with its tables and numbers, from the CSV files in `folder`, where the figures are too."""
    frames = read(folder)
    found = {name: tabulate(frames) for name, (needs, tabulate) in TABLES.items() if set(needs) <= set(frames)}
    to_figures = os.path.relpath(folder, page.parent)
    found = {name: table.replace(verdicts.FIGURE, to_figures) for name, table in found.items()}
    return fill(page.read_text(encoding="utf-8"), found, numbers(frames))
