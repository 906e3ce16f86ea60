"""Settings side by side, and what the weight of their losses at initialisation says of the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from igb.report.metrics import Censored, EventTime, escape_step, grouped
from igb.report.runs import OVERALL
from igb.report.settings import Panel
from igb.report.summary import weight_start

LEAST_WEIGHT, LARGEST_WEIGHT = -10.0, 100.0  # that have a place of their own: some losses have weights without bound

Ticks = list[tuple[float, str]]  # places from 0 to 1, and their labels


@dataclass(frozen=True)
class Point:
    """A run in a scatter chart: the number of its setting, its place from 0 to 1, and what it is in words."""

    setting: int
    x: float
    y: float
    escaped: bool
    text: str


@dataclass(frozen=True)
class Scatter:
    """Something at the end of each run over the mean weight of its loss at initialisation, in one batch-norm mode."""

    title: str
    points: list[Point]
    x_ticks: Ticks
    y_ticks: Ticks


def compared(panels: Sequence[Panel]) -> tuple[list[str], dict[str, dict[int, Panel]]]:
    """The labels of the settings, and for each batch-norm mode the panels by the number of their setting."""
    labels = list(dict.fromkeys(panel.setting.label for panel in panels))
    modes: dict[str, dict[int, Panel]] = {}
    for panel in panels:
        modes.setdefault(panel.mode, {})[labels.index(panel.setting.label)] = panel
    return labels, modes


def quantities(panels: Sequence[Panel]) -> list[str]:
    """What settings are compared in: keys of OVERALL; those of wrong labels if any setting has some."""
    wrong = any(panel.has_wrong_labels for panel in panels)
    return [name for name in OVERALL if wrong or "." not in name]


def scatters(panels: Sequence[Panel], threshold: float) -> list[Scatter]:
    """Escape step and mean accuracy at the end over `weight_start`, for each mode; none if all weights are equal."""
    modes = compared(panels)[1]
    return [
        replace(scatter, title=f"{scatter.title} ({mode} statistics)") if len(modes) > 1 else scatter
        for mode, of_mode in modes.items()
        for scatter in _scatters(of_mode, mode, threshold)
    ]


def _scatters(of_mode: Mapping[int, Panel], mode: str, threshold: float) -> list[Scatter]:
    runs = [
        (number, run, weight)
        for number, panel in of_mode.items()
        for run in panel.runs
        if math.isfinite(weight := weight_start(run, mode))
    ]
    weights = [weight for *_, weight in runs]
    if not weights or max(weights) - min(weights) <= 1e-9 * max(map(abs, weights)):
        return []
    x_ticks, places = _weight_axis(weights)
    escapes = [escape_step(run.table("guess_fraction", mode), threshold) for _, run, _ in runs]
    accuracies = [float(run.overall("mean_accuracy", mode).iloc[-1]) for _, run, _ in runs]

    def scatter(title: str, axis: tuple[Ticks, list[float]]) -> Scatter:
        y_ticks, heights = axis
        points = [
            Point(
                number, x, y, not isinstance(escape, Censored),
                f"{run.label}: weight {weight:.3g}, escape step {_text(escape)}, mean accuracy {accuracy:.3g}",
            )
            for (number, run, weight), x, y, escape, accuracy in zip(
                runs, places, heights, escapes, accuracies, strict=True
            )
            if math.isfinite(y)
        ]  # fmt: skip
        return Scatter(title, points, x_ticks, y_ticks)

    return [scatter("escape step", _step_axis(escapes)), scatter("mean accuracy at the end", _share_axis(accuracies))]


def _weight_axis(weights: Sequence[float]) -> tuple[Ticks, list[float]]:
    """Ticks and places of weights, by log(1 + |w| / 0.001), which shows signs and small ones; others at an end."""

    def stretched(weight: float) -> float:
        inside = min(max(weight, LEAST_WEIGHT), LARGEST_WEIGHT)
        return math.copysign(math.log10(1 + abs(inside) / 1e-3), inside)

    low, high = stretched(min(*weights, 0)), stretched(max(*weights, 1))
    powers = [10.0**power for power in range(-2, 3)]
    ticks = [*(-power for power in reversed(powers)), 0.0, *powers]
    return (
        [
            (at, f"{tick:g}")
            for tick in ticks
            if tick == min(max(tick, LEAST_WEIGHT), LARGEST_WEIGHT)
            and 0 <= (at := (stretched(tick) - low) / (high - low)) <= 1
        ],
        [(stretched(weight) - low) / (high - low) for weight in weights],
    )


def _step_axis(escapes: Sequence[EventTime]) -> tuple[Ticks, list[float]]:
    """Ticks and places of escape steps; a run that has not escaped stands at its last probe."""
    steps = [escape.step if isinstance(escape, Censored) else escape for escape in escapes]
    most = max(*steps, 1)
    powers = [10**power for power in range(int(math.log10(most)) + 1)]
    ticks = [0, *powers, *([most] if most > 2 * powers[-1] else [])]
    return (
        [(math.log1p(tick) / math.log1p(most), grouped(tick)) for tick in ticks],
        [math.log1p(step) / math.log1p(most) for step in steps],
    )


def _share_axis(shares: Sequence[float]) -> tuple[Ticks, list[float]]:
    top = max(*filter(math.isfinite, shares), 0.1)
    tenths = range(0, int(10 * top + 1e-9) + 1, 2 if top > 0.5 else 1)
    return [(tenth / 10 / top, f"{tenth / 10:g}") for tenth in tenths], [share / top for share in shares]


def _text(escape: EventTime) -> str:
    return f">{grouped(escape.step)}" if isinstance(escape, Censored) else grouped(escape)
