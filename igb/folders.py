"""What a run's folder says to a command that would write there; imports nothing heavy."""

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
from omegaconf import DictConfig, OmegaConf

from igb._checks import InputError
from igb._paths import checkpoint_path, replacing

PLAN = "sweep.json"
FINAL = ("completed", "diverged")  # of which the first is final unless there are more steps to go
MAY_DIFFER = ("data.root", "data.cache_dir")
MAY_GROW = ("trainer.max_epochs", "trainer.max_steps")

log = logging.getLogger(__name__)


class Lock:
    """The right to write in a folder, which ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = False
        self._lock = filelock.FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the folder; InputError if another process has it."""
        try:
            self._lock.acquire(timeout=1)  # who looks whether it is held has it for a moment
        except filelock.Timeout as error:
            raise InputError(f"another process is writing to {self.folder}") from error
        except (OSError, NotImplementedError) as error:
            log.warning("%s cannot be locked (%s); see that no two processes write there", self.folder, error)
        self.held = True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()
        self.held = False


def in_use(folder: Path) -> bool:
    """Whether a process holds the folder's lock; taken to be so where this user may not ask."""
    if not (folder / ".lock").exists():
        return False
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, PermissionError):
        return True
    except (OSError, NotImplementedError):  # a file system without locks
        return False
    lock.release()
    return False


def status(folder: Path, entries: dict[str, Any], queued: Callable[[], set[str]]) -> str:
    """How the run with this run.json stands: who says `running` but is no more was interrupted.

    It runs while a process holds the folder's lock, or, where a lock is not seen from another machine, while its job is
    among those that `queued` gives, such as `slurm.queued`.
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


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
