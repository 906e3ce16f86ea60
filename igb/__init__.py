"""igb measures how an untrained network leaves its initial guessing bias, or does not, under a loss.

The attributes load what they need when they are first used: `import igb` alone imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igb import losses
    from igb.checkpoints import load_network
    from igb.report import load_runs
    from igb.statistics import ClassStatistics, measure

__all__ = ["ClassStatistics", "load_network", "load_runs", "losses", "measure"]

_MODULES = {
    "ClassStatistics": "igb.statistics",
    "load_network": "igb.checkpoints",
    "load_runs": "igb.report",
    "measure": "igb.statistics",
}


def __getattr__(name: str) -> Any:
    if name == "losses":
        return importlib.import_module("igb.losses")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'igb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
