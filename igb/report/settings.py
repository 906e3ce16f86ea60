"""Groups of runs that differ only in their seeds, with means and intervals over them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv, stdtrit

from igb.folder.identity import MAY_GROW, SEED, keys_with_role
from igb.report.metrics import Array, favoured_order
from igb.report.runs import OVERALL, Run, described, differing, setting

ALIGNMENTS = ("class", "favoured")
CONFIDENCE = 0.95
FEWEST = 5  # runs that an interval over seeds needs
UNBOUNDED = ("loss", "gradient_norm", "weight", "drift_ratio")  # the other quantities are between 0 and 1


@dataclass(frozen=True)
class Setting:
    """One setting and its runs, each with its own seeds."""

    label: str
    runs: list[Run]


@dataclass(frozen=True)
class Curves:
    """A quantity over training in one setting: mean, bounds of the 95 % interval, [steps, classes], and n, [steps].

    A quantity of all classes together, as `Run.overall` gives it, has one column.

    The bounds are NaN where there are fewer than five runs. `each` has the values of every run, [runs, steps,
    classes], NaN where it was not probed.
    """

    steps: list[int]
    mean: Array
    low: Array
    high: Array
    n: list[int]
    each: Array

    @property
    def few(self) -> bool:
        """Whether there are several runs but too few for an interval, so that they are shown one by one."""
        return 1 < len(self.each) < FEWEST


@dataclass(frozen=True)
class Panel:
    """One setting in one batch-norm mode, as a figure shows it; `align` as in `igb-report --align`."""

    setting: Setting
    mode: str
    title: str
    align: str
    _cache: dict[str, Curves] = field(default_factory=dict, compare=False, repr=False)

    @property
    def runs(self) -> list[Run]:
        """The runs of the setting that were probed in this mode."""
        return [run for run in self.setting.runs if self.mode in run.modes]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.runs[0].steps_per_epoch

    @property
    def has_wrong_labels(self) -> bool:
        """Whether all its runs have wrong labels among the images whose memorisation they measure."""
        return all((run.overall("wrong.count", self.mode) > 0).any() for run in self.runs)

    @property
    def names(self) -> list[str]:
        """The names of the columns of its curves of classes."""
        names = self.runs[0].class_names
        return names if self.align == "class" else [_rank(k) for k in range(len(names))]

    def order(self, run: Run) -> list[int]:
        """The classes of a run in the order of the panel's columns."""
        names = range(len(run.class_names))
        return list(names) if self.align == "class" else _order(run, self.mode) or list(names)

    @property
    def is_mixed(self) -> bool:
        """Whether its runs favour different classes."""
        orders = [_order(run, self.mode) for run in self.runs]
        return len({order[0] for order in orders if order is not None}) > 1

    @property
    def count(self) -> str:
        """The number of runs if there are several: `n = 3`, or `n = 2 to 3` if some are shorter."""
        n = self.curves("guess_fraction").n
        if max(n) == 1:
            return ""
        return f"n = {max(n)}" if min(n) == max(n) else f"n = {min(n)} to {max(n)}"

    def aligned(self, align: str) -> "Panel":
        """The same panel in another alignment."""
        return Panel(self.setting, self.mode, self.title, align)

    def curves(self, quantity: str) -> Curves:
        """A quantity as mean and interval over the runs that were probed at each step."""
        if quantity in self._cache:
            return self._cache[quantity]
        tables = [self._table(run, quantity) for run in self.runs]
        steps = sorted(set().union(*(table.index for table in tables)))
        values = np.array([table.reindex(steps).to_numpy(dtype=float) for table in tables])
        probed = np.array([np.isin(steps, table.index) for table in tables])
        n = probed.sum(axis=0)
        mean, low, high = mean_and_bounds(values, probed, bounded=quantity not in UNBOUNDED)
        self._cache[quantity] = Curves(steps, mean, low, high, n.tolist(), values)
        return self._cache[quantity]

    def _table(self, run: Run, quantity: str) -> pd.DataFrame:
        if quantity in OVERALL or "." in quantity:
            return run.overall(quantity, self.mode).to_frame()
        table = run.table(quantity, self.mode)
        return table if self.align == "class" else table[self.order(run)].set_axis(table.columns, axis=1)


def mean_and_half_width(values: Array, counted: np.ndarray) -> tuple[Array, Array]:
    """The mean over runs, and half the width of its 95 % interval, t_{0.975, n-1} s / sqrt(n) (Student's t).

    Shapes: values [runs, steps, ...], counted [runs, steps] says which of them exist; results [steps, ...]. The
    half-width is NaN for fewer than two runs.
    """
    shape = counted.shape + (1,) * (values.ndim - counted.ndim)
    exists = counted.reshape(shape)
    n = exists.sum(axis=0).astype(float)
    mean = np.where(exists, values, 0.0).sum(axis=0) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (np.where(exists, values - mean, 0.0) ** 2).sum(axis=0) / (n - 1)
        half = stdtrit(np.where(n > 1, n - 1, np.nan), (1 + CONFIDENCE) / 2) * np.sqrt(variance / n)
    return mean, np.where(n > 1, half, np.nan)


def mean_and_bounds(values: Array, counted: np.ndarray, *, bounded: bool) -> tuple[Array, Array, Array]:
    """The mean over runs and the bounds of its 95 % interval; NaN for fewer than five runs, which say too little of it.

    The bounds are Student's t. For a `bounded` quantity they are clipped to 0 and 1; the mean lies there too, so that
    this does not reduce their coverage. Shapes as in `mean_and_half_width`.
    """
    mean, half = mean_and_half_width(values, counted)
    enough = counted.sum(axis=0).reshape(counted.shape[1:] + (1,) * (values.ndim - counted.ndim)) >= FEWEST
    low, high = (np.where(enough, bound, np.nan) for bound in (mean - half, mean + half))
    return (mean, low.clip(0, 1), high.clip(0, 1)) if bounded else (mean, low, high)


def bounds_of_rate(count: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a probability of which `count` of `n` runs are known (Clopper and Pearson, 1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def settings(runs: Sequence[Run]) -> list[Setting]:
    """The settings of the runs, in the order they started; a second run with the same seeds is a setting of its own.

    Runs of a setting may differ in length, unless length is all that tells some runs with the same seeds apart.
    """
    by_length = _differ_in_length(runs)
    by_setting: dict[tuple[Any, ...], list[Run]] = {}
    times: Counter[tuple[Any, ...]] = Counter()
    for run, images in zip(runs, _images(runs), strict=True):
        same = (setting(run), images, _length(run) if by_length else None)
        again = times[same, str(run.seeds)]
        times[same, str(run.seeds)] += 1
        by_setting.setdefault((same, again), []).append(run)
    groups = list(by_setting.values())
    keys = swept(runs)
    labels = [described(group[0], keys) for group in groups]
    counts = Counter(labels)
    folders = [os.path.commonpath([run.folder.resolve().parent for run in group]) for group in groups]
    common = os.path.commonpath(folders) if folders else ""
    for number, folder in enumerate(folders):
        if counts[labels[number]] > 1:
            labels[number] += f" ({os.path.relpath(folder, common)})"
        if labels[number] in labels[:number]:
            labels[number] += f" #{number + 1}"
    return [Setting(label, group) for label, group in zip(labels, groups, strict=True)]


def swept(runs: Sequence[Run]) -> list[str]:
    """The keys that were set and are not the same in every run, except seeds.

    Limits on the length count only if length is all that tells some runs apart.
    """
    ignored = {*keys_with_role(SEED), *(() if _differ_in_length(runs) else keys_with_role(MAY_GROW))}
    return [key for key in differing(runs) if key not in ignored]


def _length(run: Run) -> tuple[Any, ...]:
    return tuple(run.value(key) for key in keys_with_role(MAY_GROW))


def _differ_in_length(runs: Sequence[Run]) -> bool:
    """Whether some runs are the same, seeds included, except for their length."""
    lengths: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    for run in runs:
        lengths.setdefault((setting(run), str(run.seeds)), set()).add(_length(run))
    return any(len(found) > 1 for found in lengths.values())


def _images(runs: Sequence[Run]) -> list[Any]:
    """A key for each run's images: their hash, or for an older run without one that of a run with the same root."""
    places = [(setting(run), run.value("data.root")) for run in runs]
    at_place = {place: run.info["images"] for run, place in zip(runs, places, strict=True) if "images" in run.info}
    return [run.info.get("images", at_place.get(place, place)) for run, place in zip(runs, places, strict=True)]


def panels(runs: Sequence[Run], align: str | None = None) -> list[Panel]:
    """A panel for each setting and batch-norm mode; the mode is named where there are several.

    Unless `align` is given they are aligned by favoured rank if the seeds of any panel favour different classes.
    """
    several = len({mode for run in runs for mode in run.modes}) > 1
    found = [
        Panel(one, mode, f"{one.label}\n({mode} statistics)" if several else one.label, align or "class")
        for one in settings(runs)
        for mode in dict.fromkeys(mode for run in one.runs for mode in run.modes)
    ]
    if align is None and any(panel.is_mixed for panel in found):
        return [panel.aligned("favoured") for panel in found]
    return found


def _order(run: Run, mode: str) -> list[int] | None:
    """The classes of a run by their initial guess fraction; None if no class is favoured."""
    return favoured_order(run.table("guess_fraction", mode), run.table("mean_probability", mode))


def _rank(k: int) -> str:
    """The name of the class that is number k by initial guess fraction."""
    place = k + 1
    ending = "th" if 10 < place % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return "favoured" if k == 0 else f"{place}{ending}"
