"""The pages on the paper, filled in from the CSV files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from reproduction import matrix, verdicts
from reproduction import tables as of_stages
from reproduction.common import fill, read
from reproduction.numbers import numbers

TABLES = {**verdicts.TABLES, **matrix.TABLES, **of_stages.TABLES}


def filled(pages: Sequence[Path], folder: Path) -> Iterator[str]:
    """The text of each page with its tables and numbers, from the CSV files in `folder`, where the figures are too."""
    frames = read(folder)
    found = {name: tabulate(frames) for name, (needs, tabulate) in TABLES.items() if set(needs) <= set(frames)}
    inline = numbers(frames)
    for page in pages:
        to_figures = os.path.relpath(folder, page.parent)
        tables = {name: table.replace(verdicts.FIGURE, to_figures) for name, table in found.items()}
        yield fill(page.read_text(encoding="utf-8"), tables, inline)
