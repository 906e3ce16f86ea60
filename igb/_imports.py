"""Faster imports of the libraries that igb trains with."""

import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

LATE = "scipy.signal"  # takes a second or more to import


class _LazyModule(ModuleType):
    """A placeholder that imports the real module on first use.

    torchmetrics imports scipy.signal only to set `hamming` on it, for a library that igb does not use.
    """

    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # read from every module, used or not
            raise AttributeError(name)
        if sys.modules.get(LATE) is self:
            del sys.modules[LATE]
        return getattr(importlib.import_module(LATE), name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, defer the import of scipy.signal until it is used, and pause the garbage collector.

    The collector would scan a million permanent objects again and again; afterwards it skips them. A line says what
    takes a while. If torch is imported already there is nothing to gain.
    """
    if "torch" in sys.modules:
        yield
        return
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes of a run the first
        version = ""
        with suppress(importlib.metadata.PackageNotFoundError):  # of a clone that is not installed
            version = f" {importlib.metadata.version('igb')}"
        print(f"igb{version}: loading torch", file=sys.stderr, flush=True)
    placeholder, was_enabled = _LazyModule(LATE), gc.isenabled()
    sys.modules.setdefault(LATE, placeholder)
    gc.disable()
    try:
        yield
    finally:
        if sys.modules.get(LATE) is placeholder:
            del sys.modules[LATE]
        if was_enabled:
            gc.enable()
        gc.freeze()
