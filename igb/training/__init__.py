"""Training and its callbacks.

Attributes are imported lazily: `igb.training.stopping` alone imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igb.training.classifier import Classifier
    from igb.training.lightning_trainer import trainer
    from igb.training.optimizers import adam, adamw, sgd
    from igb.training.probe import Probe

__all__ = ["Classifier", "Probe", "adam", "adamw", "sgd", "trainer"]

_MODULES = {
    "Classifier": "classifier", "Probe": "probe", "adam": "optimizers", "adamw": "optimizers", "sgd": "optimizers",
    "trainer": "lightning_trainer",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"igb.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'igb.training' has no attribute {name!r}")
