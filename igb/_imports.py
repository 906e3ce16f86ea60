"""What makes the libraries that igb trains with quicker to import."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

LATE = "scipy.signal"  # takes a second or more


class _Late(ModuleType):
    """Stands for a module until something of it is used.

    torchmetrics imports scipy.signal in order to give it `hamming`, for a library that igb does not use.
    """

    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # what is asked of any module, used or not
            raise AttributeError(name)
        if sys.modules.get(LATE) is self:
            del sys.modules[LATE]
        return getattr(importlib.import_module(LATE), name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, imports leave out scipy.signal unless it is used, and the garbage collector rests.

    It would go again and again through a million objects that stay for good; afterwards it passes them over. Where
    torch is imported already, nothing is left to gain.
    """
    if "torch" in sys.modules:
        yield
        return
    late, collects = _Late(LATE), gc.isenabled()
    sys.modules.setdefault(LATE, late)
    gc.disable()
    try:
        yield
    finally:
        if sys.modules.get(LATE) is late:
            del sys.modules[LATE]
        if collects:
            gc.enable()
        gc.freeze()
