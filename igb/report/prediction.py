"""The mean-field theory beside the measurements, for runs whose network and initialisation it covers."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from igb import theory
from igb._checks import InputError
from igb.folder.identity import current_target
from igb.report.runs import Run
from igb.report.settings import Panel, swept

NETWORK = "igb.models.MLP"
RULES = {"igb.initialization.mean_field", "igb.initialization.he"}
KEYS = ("init.weight_variance", "init.bias_variance", "init.drift_ratio", "model.depth", "model.width")  # of an axis


@dataclass(frozen=True)
class Prediction:
    """What the theory says of a panel's runs, all alike, and what they are at initialisation."""

    panel: Panel
    drift_ratio: float
    classes: int

    @property
    def dominance(self) -> float:
        """Its mean over networks."""
        return dominance_of(self.drift_ratio, self.classes)

    @property
    def measured(self) -> list[float]:
        """The dominance of each run."""
        return [float(run.overall("dominance", self.panel.mode).iloc[0]) for run in self.panel.runs]


@dataclass(frozen=True)
class Axis:
    """The key along which predictions are drawn, and those of each line, by their places on it."""

    key: str
    lines: dict[str, list[tuple[float, Prediction]]]


def drift_ratio_of(run: Run, mode: str) -> float | None:
    """The drift ratio that the theory gives a run's logits at initialisation; None for a run that it does not cover.

    It covers `igb.models.MLP`, drawn by `mean_field` or `he` and neither chosen nor centred. Untouched running
    statistics of batch norm are the identity.
    """
    try:
        return _of(run, mode)
    except (
        InputError,
        OmegaConfBaseException,
        AttributeError,
        KeyError,
        TypeError,
    ):  # a damaged run.json
        return None


def activation_of_plane(run: Run, mode: str) -> str | None:
    """The activation whose edges belong into a plane of a run's variances; None where there is a norm or a residual."""
    if drift_ratio_of(run, mode) is None or run.config.init.get("relative_to_edge") or run.config.model.get("residual"):
        return None
    return str(run.config.model.get("activation", "relu")) if _norm(run, mode) == "none" else None


def _norm(run: Run, mode: str) -> str:
    """The norm of a run's MLP as it is at initialisation, where untouched running statistics are none."""
    norm = str(run.config.model.get("norm", "none"))
    untouched = mode == "running" and norm.startswith("batch") and not run.config.init.get("calibrate")
    return "none" if untouched else norm


def _of(run: Run, mode: str) -> float | None:
    model, rule, inputs = run.config.get("model") or {}, run.config.get("init") or {}, run.info.get("inputs")
    if current_target(str(model.get("_target_"))) != NETWORK or rule.get("_target_") not in RULES or not inputs:
        return None
    if rule.get("target_dominance") is not None or rule.get("center"):
        return None
    activation, biases = model.get("activation", "relu"), rule.get("bias_variance", 0.0)
    weights = (run.info.get("init") or {}).get("weight_variance", rule.get("weight_variance", 2.0))
    if rule.get("relative_to_edge"):
        weights *= theory.edge_of_chaos(activation, biases)
    return _drift_ratio(
        activation, weights, biases, model.get("depth", 2) + 1, inputs["correlation"], inputs["variance"],
        _norm(run, mode), bool(model.get("residual")),
    )  # fmt: skip


@functools.cache  # the runs of a setting have the same
def _drift_ratio(*options: Any) -> float:
    return float(theory.propagate(*options).drift_ratio[-1])


@functools.cache
def dominance_of(drift_ratio: float, classes: int) -> float:
    """The mean dominance of networks whose logits have a drift ratio; NaN for none that is known."""
    return math.nan if math.isnan(drift_ratio) else theory.guesses(drift_ratio, classes).mean_dominance


def predictions(panels: Sequence[Panel]) -> list[Prediction]:
    """For each panel that the theory covers; the mean over its runs, whose data may differ a little."""
    found = []
    for panel in panels:
        ratios = [drift_ratio_of(run, panel.mode) for run in panel.runs]
        known = [ratio for ratio in ratios if ratio is not None and not math.isnan(ratio)]
        if len(known) == len(ratios):
            found.append(Prediction(panel, sum(known) / len(known), len(panel.runs[0].class_names)))
    return found


def axis(found: Sequence[Prediction]) -> Axis | None:
    """The key of numbers with the most values among the runs, and a line for each combination of all else."""
    runs = [prediction.panel.runs[0] for prediction in found]
    keys = [key for key in swept(runs) if key in KEYS and all(isinstance(run.value(key), int | float) for run in runs)]
    if not keys:
        return None
    key = max(keys, key=lambda key: len({run.value(key) for run in runs}))
    lines: dict[str, list[tuple[float, Prediction]]] = {}
    for prediction, run in zip(found, runs, strict=True):
        others = [f"{other}={run.value(other)}" for other in swept(runs) if other != key]
        modes = {prediction.panel.mode for prediction in found}
        label = ", ".join([*others, *([f"{prediction.panel.mode} statistics"] if len(modes) > 1 else [])])
        lines.setdefault(label, []).append((float(run.value(key)), prediction))
    return Axis(key, {label: sorted(line, key=lambda item: item[0]) for label, line in lines.items()})
