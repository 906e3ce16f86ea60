"""What a run's folder says to a command that would write there; imports nothing heavy."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from igb._checks import InputError
from igb._files import replacing
from igb.folder.lock import in_use
from igb.folder.schema import checkpoint_path

PLAN = "sweep.json"
FINAL = ("completed", "diverged")  # of which the first is final unless there are more steps to go
MAY_DIFFER = ("data.root", "data.cache_dir")
MAY_GROW = ("trainer.max_epochs", "trainer.max_steps")

log = logging.getLogger(__name__)


def status(folder: Path, entries: dict[str, Any], queued: Callable[[], set[str]]) -> str:
    """How the run with this run.json stands: who says `running` but is no more was interrupted.

    It runs while a process holds the folder's lock, or, where a lock is not seen from another machine, while its job is
    among those that `queued` gives, such as `_slurm.queued`.
    """
    recorded = str(entries["status"])
    if recorded != "running" or in_use(folder) or entries.get("slurm_job") in queued():
        return recorded
    return "interrupted"


def read(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder, or None if it holds no run; InputError if it is damaged."""
    path = folder / "run.json"
    try:
        entries: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); remove {folder} to start anew") from error
    return entries


def plan(sweep: Path, names: Sequence[str]) -> None:
    """Keep the names of a sweep's runs in its folder, beside those of an earlier command."""
    with replacing(sweep / PLAN) as partial:
        partial.write_text(json.dumps(list(dict.fromkeys([*planned(sweep), *names])), indent=1) + "\n")


def planned(sweep: Path) -> list[str]:
    """The names of the runs that a sweep has, or is to have."""
    try:
        names: list[str] = json.loads((sweep / PLAN).read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{sweep / PLAN} is damaged ({error}); remove it") from error
    return names


def finished(folder: Path, config: DictConfig) -> str | None:
    """The status of the run that a folder holds, if it is final and the config asks for no more steps; else None.

    Raises InputError if it asks for more of a run that kept no checkpoint.
    """
    entries = read(folder)
    if entries is None or entries["status"] not in FINAL:
        return None
    steps = config.trainer.max_epochs * entries["steps_per_epoch"]
    if config.trainer.max_steps is not None:
        steps = min(steps, config.trainer.max_steps)
    more = entries["status"] == "completed" and steps > entries["total_steps"]
    if more and entries["total_steps"] > 0 and not checkpoint_path(folder).exists():
        raise InputError(f"trainer.max_steps or max_epochs grew, but the run in {folder} kept no checkpoint")
    return None if more else str(entries["status"])
