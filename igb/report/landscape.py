"""The loss landscape: each loss of a sweep as a function of p_y, the probability of the true class."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from igb.folder.schema import LOSS_CURVE
from igb.report.metrics import Array
from igb.report.runs import Run

WRONG, DEAD = "wrong way", "dead"


@dataclass(frozen=True)
class LossCurve:
    """A loss at each p_y, [N] ascending, its gradient with respect to the logit of the true class, and its weight."""

    name: str
    p: Array
    loss: Array
    gradient: Array
    weight: Array

    @property
    def regions(self) -> list[tuple[str, float, float]]:
        """Where the loss does not pull the true class up: the kind of region, and its lowest and highest p_y.

        `wrong way` is where the gradient is positive, so that a step lowers the logit: for Blurry loss as written
        p_y < e^(-1/gamma). `dead` is where it is zero: for Piecewise-zero loss p_y <= c.
        """
        kind = np.where(self.gradient > 0, 1, np.where(self.gradient == 0, 2, 0))
        ends = np.flatnonzero(np.diff(kind, prepend=0, append=0))
        return [
            (WRONG if kind[start] == 1 else DEAD, float(self.p[start]), float(self.p[stop - 1]))
            for start, stop in itertools.pairwise(ends)
            if kind[start] and stop - start > 1
        ]

    @property
    def region_texts(self) -> list[str]:
        """Its regions in words, with p_y as matplotlib math text."""
        return [
            f"{kind} for {'' if start == self.p[0] else f'{start:.3g} ≤ '}$p_y$ ≤ {end:.3g}"
            for kind, start, end in self.regions
        ]


def loss_curves(runs: Sequence[Run]) -> list[LossCurve]:
    """Each loss of the runs' schedules once; if two share a name but not a curve, the later has its run's label too."""
    found: list[LossCurve] = []
    for run in runs:
        for curve in curves_of(run):
            if any(other.name.startswith(curve.name) and _same(other, curve) for other in found):
                continue
            taken = any(other.name == curve.name for other in found)
            found.append(replace(curve, name=f"{curve.name}, {run.label}") if taken else curve)
    return found


def curves_of(run: Run, until: float = math.inf) -> list[LossCurve]:
    """The losses of a run's schedule that begin by epoch `until`, in order."""
    table = run.loss_curve()
    if table is None:
        return []
    return [
        LossCurve(str(name), *(rows.sort_values("p_y")[column].to_numpy(float) for column in list(LOSS_CURVE)[2:]))
        for (epoch, name), rows in table.groupby(["from_epoch", "name"], sort=False)
        if len(rows) > 1 and epoch <= until
    ]


def weight_range(curves: Sequence[LossCurve]) -> tuple[float, float]:
    """The range in which weights are shown: a loss of all classes may have any at p_y near 1."""
    shown = np.concatenate([curve.weight[(curve.p < 0.9) & np.isfinite(curve.weight)] for curve in curves])
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    margin = 0.05 * (high - low or 1)
    return min(low, 0) - margin, max(high, 1) + margin


def _same(one: LossCurve, other: LossCurve) -> bool:
    """Whether two curves agree at the points they share; one may have more points."""
    _, at, there = np.intersect1d(one.p, other.p, return_indices=True)
    return len(at) > 1 and np.allclose(one.loss[at], other.loss[there], rtol=1e-9, atol=1e-12)
