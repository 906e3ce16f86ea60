"""What makes a run the run it is."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from igb._checks import InputError
from igb.folder.state import read

MAY_DIFFER = ("data.root", "data.cache_dir")
MAY_GROW = ("trainer.max_epochs", "trainer.max_steps")


def refuse_other(folder: Path, config: DictConfig) -> None:
    """Raise InputError if the folder holds a run of another config, the first key that differs named."""
    if (entries := read(folder)) is None:
        return
    if "config" not in entries:
        raise InputError(f"{folder / 'run.json'} has no config; give another folder")
    recorded, composed = _flat(OmegaConf.create(entries["config"])), _flat(config)
    for key in sorted({*recorded, *composed} - {*MAY_DIFFER}):
        old, new = recorded.get(key), composed.get(key)
        if key in MAY_GROW and _limit(new) >= _limit(old):
            continue
        if old != new:
            raise InputError(
                f"{key}={new} differs from {key}={old}, with which the run in {folder} was started; "
                "give that, or another folder"
            )


def _limit(value: Any) -> float:
    """A number of epochs or steps; infinite for None, and NaN, which compares with nothing, for an expression."""
    if value is None:
        return math.inf
    return value if isinstance(value, int) else math.nan


def _flat(config: Any) -> dict[str, Any]:
    """The values of a config, as they are written, by their dotted keys."""
    found: dict[str, Any] = {}

    def visit(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                visit(item, f"{key}.{name}" if key else str(name))
        else:
            found[key] = value

    visit(OmegaConf.to_container(config, resolve=False), "")
    return found
