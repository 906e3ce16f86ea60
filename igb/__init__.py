"""igb measures whether, and how fast, a network trained with a given loss leaves its initial guessing bias.

Attributes are imported lazily: `import igb` alone imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from igb._environment import drop_malformed_variables

if TYPE_CHECKING:
    from igb import experiment, losses, theory

    __version__: str
    from igb.report import load_matrices, load_runs
    from igb.statistics import ClassStatistics, measure
    from igb.tracing import Trace, common_step, drift_ratio, trace
    from igb.training.load import load_network

__all__ = [
    "ClassStatistics", "Trace", "__version__", "common_step", "drift_ratio", "experiment", "load_matrices",
    "load_network", "load_runs", "losses", "measure", "theory", "trace",
]  # fmt: skip

_MODULES = {
    "ClassStatistics": "igb.statistics",
    "load_matrices": "igb.report",
    "load_network": "igb.training.load",
    "load_runs": "igb.report",
    "measure": "igb.statistics",
    "Trace": "igb.tracing",
    "common_step": "igb.tracing",
    "drift_ratio": "igb.tracing",
    "trace": "igb.tracing",
}


def __getattr__(name: str) -> Any:
    drop_malformed_variables()  # libraries read them when they are imported
    if name in ("experiment", "losses", "theory"):
        return importlib.import_module(f"igb.{name}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("igb")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'igb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
