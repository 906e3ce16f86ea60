"""The CSV files of a run, which grow while it runs."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from igb._checks import InputError
from igb._files import sync


class Table:
    """A CSV file to which rows are appended; readers see them as soon as they are written.

    It is a context manager: until it is entered, it leaves the file as it is.

    Args:
        path: the file.
        columns: the header of a new file; one that is added to keeps its own.
        kept: bytes of the file to keep, 0 for a new one. InputError if it has fewer.
    """

    def __init__(self, path: Path, columns: Sequence[str], kept: int = 0) -> None:
        if kept and (not path.exists() or path.stat().st_size < kept):
            raise InputError(
                f"{path} is shorter than when its checkpoint was written; remove {path.parent} to start from scratch"
            )
        self.path, self.columns, self._kept = path, columns, kept
        if kept:
            with open(path, newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file))

    def __enter__(self) -> "Table":
        self._file = open(self.path, "r+b" if self._kept else "wb")
        self._file.truncate(self._kept)
        self._file.seek(0, os.SEEK_END)
        if not self._kept:
            self.write([cells(self.columns)])
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Iterable[Iterable[str]]) -> None:
        """Append rows of cells, each as `cells` gives it, in one write."""
        self._file.write("".join([f"{','.join(row)}\n" for row in rows]).encode())
        self._file.flush()

    def sync(self) -> int:
        """Flush the file to the disk, and return its size in bytes."""
        sync(self.path)
        return self._file.tell()


def cells(values: Iterable[float | str]) -> list[str]:
    """Each of some values as it stands in a table; a text is quoted if it has a comma, a quote or a line break."""
    return [_quoted(value) if isinstance(value, str) else repr(value) for value in values]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
