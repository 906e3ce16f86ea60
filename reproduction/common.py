"""What tables, verdicts, numbers and figures of the pages are made with: CSV files and how their values are written."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from igb._checks import InputError
from igb.report.metrics import THRESHOLD, Censored, first_for_good
from igb.report.settings import mean_and_half_width
from reproduction.collect import KEYS

Frames = Mapping[str, pd.DataFrame]  # the CSV files by their names
OPEN = "open: its runs are not finished"


@dataclass(frozen=True)
class Finding:
    """What became of a claim or a question: an answer in two words at most, why in 22, and in short in 12."""

    claim: str
    answer: str
    reason: str
    short: str

    @property
    def verdict(self) -> str:
        """Answer and reason."""
        return f"**{self.answer}**: {self.reason}"


def in_short(findings: Sequence[Finding]) -> str:
    """The table of a front page."""
    return markdown(["claim", "", ""], [[one.claim, f"**{one.answer}**", one.short] for one in findings])


def read(folder: Path) -> Frames:
    """The CSV files in a folder; InputError if there are none."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"{folder} has no CSV files; name the folder that the runs were collected into")
    return {file.stem: pd.read_csv(file) for file in files}


@contextmanager
def one_line_exit() -> Iterator[None]:
    """Exit with one line if an input is refused, or a file cannot be read or written."""
    try:
        yield
    except OSError as error:
        sys.exit(f"igb: {error.filename or 'a file'} cannot be read or written ({error.strerror or error})")
    except InputError as error:
        sys.exit(f"igb: {error}")


def fill(page: str, tables: Mapping[str, str], numbers: Mapping[str, str] | None = None) -> str:
    """A page with each table, and each number in its text, between its markers.

    `<!-- table: NAME -->` and `<!-- end -->` are lines; `<!--=NAME-->` and `<!--/-->` stand within a line. Raises
    InputError for a marker that has no table or number.
    """

    def of(known: Mapping[str, str], name: str) -> str:
        try:
            return known[name]
        except KeyError:
            raise InputError(f"the page has a marker {name}, for which there are no runs, or no such thing") from None

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{of(tables, found[2])}\n<!-- end -->"

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{of(numbers or {}, found[2])}<!--/-->"

    page = re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", table, page, flags=re.DOTALL)
    return re.sub(r"(<!--=(\w+)-->).*?<!--/-->", number, page, flags=re.DOTALL)


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def last_probe(runs: pd.DataFrame) -> pd.DataFrame:
    """The row of each run's last probe, with its `escape_step` as in docs/report.md; infinite if it has not escaped.

    Raises InputError if there are no runs.
    """
    if runs.empty:
        raise InputError("a stage has none of the runs of a table, which needs those of its description")
    rows = []
    known = [name for name in KEYS.values() if name in runs]
    for _, run in runs.groupby([*known, "batch_norm"], sort=False):
        escape = first_for_good(run["step"].tolist(), (run["dominance"] < THRESHOLD).to_numpy())
        rows.append(run.iloc[-1:].assign(escape_step=math.inf if isinstance(escape, Censored) else float(escape)))
    return pd.concat(rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def least_to_most(values: "pd.Series[float]", digits: str = ".2f") -> str:
    """Least to most; one number where they are the same."""
    low, high = (f"{bound:{digits}}" for bound in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def median_and_range(values: "pd.Series[float]", digits: str = ".2f") -> str:
    """Median, and least to most."""
    return f"{values.median():{digits}} ({values.min():{digits}} to {values.max():{digits}})"


def interval(values: "pd.Series[float]", digits: str = ".2f") -> str:
    """Mean ± half the width of its 95 % interval; the values themselves where there are fewer than three."""
    if len(values) < 3:
        return listed([f"{value:{digits}}" for value in values]) if len(values) else "-"
    mean, half = mean_and_half(values)
    return f"{mean:{digits}} ± {half:{digits}}"


def mean_and_half(values: "pd.Series[float]") -> tuple[float, float]:
    """The mean over runs and half the width of its 95 % interval (Student's t); NaN for fewer than two."""
    mean, half = mean_and_half_width(values.to_numpy(dtype=float)[:, None], np.ones((len(values), 1), dtype=bool))
    return mean.item(), half.item()


def listed(values: Iterable[str]) -> str:
    """Some values, with "and" before the last."""
    *some, last = values
    return f"{', '.join(some)} and {last}" if some else last


def rate(happened: "Sequence[bool] | pd.Series[bool]") -> str:
    """How many of how many, with the exact 95 % interval (Clopper and Pearson) in percent."""
    k, n = int(np.sum(happened)), len(happened)
    low, high = (100 * bound for bound in binomtest(k, n).proportion_ci(method="exact"))
    return f"{k} of {n} ({low:.0f} to {high:.0f} %)"
