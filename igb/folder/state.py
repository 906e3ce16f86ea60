"""run.json: the status of a run, written by the run and read by everyone else."""

import datetime
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from igb import _slurm
from igb._checks import InputError, one_line
from igb._files import make_folder, replacing
from igb.folder.lock import Lock, in_use
from igb.folder.schema import FINAL, PLAN, SCHEMA, STATUSES, checkpoint_path, config_path, hydra_path, run_path

# Files of a run that a run which starts there would overwrite; igb.log is added to.
OVERWRITTEN = (
    "metrics.csv", "train.csv", "loss_curve.csv", "memorisation.csv", "memorisation_classes.csv", "matrices.zarr",
    "matrices.tail", "matrices.npz", "checkpoints/*", "events.out.tfevents.*",
)  # fmt: skip

# Entries of run.json that a resume goes by alone; the report checks those that it reads.
TYPES: dict[str, type | tuple[type, ...]] = {
    "images": str, "threads": int, "resumed": list, "earlier": list, "checkpoint_seconds": (int, float),
    "logger_run": dict,
}  # fmt: skip

log = logging.getLogger(__name__)
SEEDS = ("seed", "init_seed", "data_seed", "noise_seed")


class RunState:
    """run.json of a running run; as a context manager it holds the folder's lock and writes how the run ended.

    An exception's `status` attribute, if any, becomes the run's status, else `failed` (`interrupted` for
    KeyboardInterrupt and SystemExit). An error before the first `update` changes only `reason` in an existing run.json.

    Args:
        folder: the run's folder, made if there is none. InputError if it cannot be written.
        config: the run's config.
        name: what the log calls the run; the folder if it is empty.
        facts: other entries that are known before the run starts.
    """

    def __init__(self, folder: Path, config: DictConfig, name: str = "", **facts: Any) -> None:
        self.folder = make_folder(folder, exclusively=False)
        self.previous: dict[str, Any] = {}  # run.json as the process before left it; known once the folder is locked
        self.entries: dict[str, Any] = {}
        self._config, self._name, self._facts = config, name or str(folder), facts
        self._lock = Lock(folder)
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._is_begun = False  # whether run.json says what this process does

    @property
    def seconds(self) -> float:
        """Wall-clock seconds up to the recorded state, over all restarts."""
        return self._seconds_before + time.perf_counter() - self._started

    def __enter__(self) -> "RunState":
        self._lock.acquire()
        try:
            self.previous = read(self.folder) or {}
        except InputError:
            self._lock.release()
            raise
        self.entries = {
            "schema": self.previous.get("schema", 1) if self.previous else SCHEMA,
            "status": "running",
            "started": datetime.datetime.now(datetime.UTC).isoformat(),
            **self.previous,
            "seeds": {key: self._config[key] for key in SEEDS if key in self._config},
            "slurm_job": _slurm.own_job(),
            "config": OmegaConf.to_container(self._config),  # Hydra's file is not under the lock
            **self._facts,
        }
        self.entries.pop("reason", None)
        if not config_path(self.folder).exists():  # a run started from Python
            config_path(self.folder).parent.mkdir(exist_ok=True)
            OmegaConf.save(self._config, config_path(self.folder))
        if not self.previous:
            self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            status = "completed"
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            status = "interrupted"
        else:
            status = str(getattr(error, "status", "failed"))
        with ExitStack() as last:  # the lock is released whatever fails before it
            last.callback(self._lock.release)
            if not self._is_begun:  # the run was not touched, and stays as it was
                self._write(self.previous | {"reason": one_line(error or "")})
                log.info("not resumed: %s", self._name)
                return
            if error is not None and status != "diverged":
                self.entries["reason"] = one_line(error)
            self._write(self._with_status(status))
        log.info("%s: %s", status if status != "diverged" else f"diverged ({error})", self._name)

    def update(self, **entries: Any) -> None:
        """Add entries and write run.json."""
        self.entries |= entries
        self._is_begun = True
        self._write(self._with_status("running"))

    def set_without_writing(self, **entries: Any) -> None:
        """Add entries, which the next `update` or the end of the run writes."""
        self.entries |= entries

    def resume(self, step: int, seconds: float) -> None:
        """Note that the run resumes from a checkpoint after `step` steps and `seconds` seconds.

        Facts that were others until then, such as the commit or the host, are kept in `earlier`.
        """
        self._seconds_before = seconds
        self.entries["resumed"] = [*self.previous.get("resumed", []), step]
        before = {
            name: self.previous[name]
            for name, fact in self._facts.items()
            if name in self.previous and not self._is_as_before(name, fact)
        }
        if before:
            earlier = {"until_step": step, **before}
            self.entries["earlier"] = [*self.previous.get("earlier", []), earlier]

    def _is_as_before(self, name: str, fact: Any) -> bool:
        before = self.previous[name]
        if name == "hardware" and isinstance(before, dict):  # of which a run finds out more when it starts
            before = {part: before.get(part) for part in fact}
        return bool(before == fact)

    def start_anew(self) -> None:
        """Forget how an earlier start went: its checkpoints are lost."""
        self.entries["schema"] = SCHEMA
        self.entries["started"] = datetime.datetime.now(datetime.UTC).isoformat()
        for name in ("resumed", "earlier", "checkpoint_seconds", "peak_memory_bytes", "logger_run"):
            self.entries.pop(name, None)

    def _with_status(self, status: str) -> dict[str, Any]:
        peak = max(peak_memory(), self.entries.get("peak_memory_bytes", 0))
        return {
            **self.entries, "status": status, "wall_seconds": round(self.seconds, 3), "peak_memory_bytes": peak,
        }  # fmt: skip

    def _write(self, entries: dict[str, Any]) -> None:
        with replacing(run_path(self.folder)) as partial:
            partial.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def current_status(folder: Path, entries: dict[str, Any], queued: Callable[[], set[str]]) -> str:
    """The status of the run with this run.json; a dead one that says `running` was interrupted.

    A run is alive while a process holds its folder's lock, or while its job is among those that `queued` gives, such as
    `_slurm.queued`: a lock may not be seen from another machine.
    """
    recorded = str(entries["status"])
    if recorded != "running" or in_use(folder) or entries.get("slurm_job") in queued():
        return recorded
    return "interrupted"


def read(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder, or None if there is none; InputError if it is damaged or was written by another program."""
    path = run_path(folder)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or was written by another program ({one_line(error)}); "
            f"remove {folder} if it is a run of igb, or choose another folder"
        ) from error
    if not isinstance(entries, dict) or not isinstance(entries.get("status"), str) or entries["status"] not in STATUSES:
        raise InputError(f"{path} has no status of an igb run; it is damaged or was written by another program")
    for name, kind in TYPES.items():
        if name in entries and not isinstance(entries[name], kind):
            raise InputError(f"{path} is damaged: {name}={entries[name]!r}")
    return entries


def refuse_foreign(folder: Path) -> None:
    """Raise InputError if a folder without a run.json holds files that a run which starts there would overwrite."""
    found = next((file for pattern in OVERWRITTEN for file in sorted(folder.glob(pattern))), None)
    with suppress(Exception):  # Hydra's own file, whole or not, if it is one
        if OmegaConf.select(OmegaConf.load(hydra_path(folder)), "hydra.help.app_name") not in (None, "igb"):
            found = hydra_path(folder)
    # Another process of the same run may just have begun: it writes run.json before all else.
    if found is not None and not run_path(folder).exists():
        raise InputError(f"{folder} holds {found.relative_to(folder)} but no igb run.json; choose another folder")


def plan(sweep: Path, names: Sequence[str]) -> None:
    """Write the names of a sweep's runs to its folder, after those of earlier commands."""
    with replacing(sweep / PLAN) as partial:
        text = json.dumps(list(dict.fromkeys([*planned(sweep), *names])), indent=1)
        partial.write_text(text + "\n", encoding="utf-8")


def planned(sweep: Path) -> list[str]:
    """The names of the runs of a sweep, also of those not started."""
    try:
        names: list[str] = json.loads((sweep / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{sweep / PLAN} is damaged ({one_line(error)}); remove it") from error
    return names


def final_status(folder: Path, config: DictConfig) -> str | None:
    """The status of the run that a folder holds, if it is final and the config asks for no more steps; else None.

    Raises InputError if it asks for more of a run that kept no checkpoint.
    """
    entries = read(folder)
    if entries is None or entries["status"] not in FINAL:
        return None
    if not all(isinstance(entries.get(name), int) for name in ("steps_per_epoch", "total_steps")):
        raise InputError(f"{run_path(folder)} has no steps_per_epoch or total_steps; it is damaged")
    steps = config.trainer.max_epochs * entries["steps_per_epoch"]
    if config.trainer.max_steps is not None:
        steps = min(steps, config.trainer.max_steps)
    more = entries["status"] == "completed" and steps > entries["total_steps"]
    if more and entries["total_steps"] > 0 and not checkpoint_path(folder).exists():
        raise InputError(
            f"cannot extend the run in {folder}: it has no checkpoint (trainer.keep_checkpoint=false, or deleted)"
        )
    return None if more else str(entries["status"])


def repeated_epoch(folder: Path, entries: dict[str, Any], step: int) -> str | None:
    """What is wrong with a run that has come to a later step than it was to, or None.

    Until 2026-11 igb repeated an epoch where a run resumed for the second time, both times at the end of an epoch.
    """
    planned = entries.get("total_steps")
    if not isinstance(planned, int) or step <= planned:
        return None
    return (
        f"{folder} has {step} steps, and was to have {planned}: an earlier igb repeated an epoch when the run resumed "
        "for the second time; remove it and run it again"
    )


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; in a sweep the jobs before are counted in."""
    with suppress(OSError, KeyError):  # Linux; the other source counts in the process that started this one
        status = dict(
            line.split(":", 1)
            for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        )
        return int(status["VmHWM"].split()[0]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
