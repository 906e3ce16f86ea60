"""The sweeper of igb, which checks all jobs before the first starts, leaves out finished ones, and sums up.

Hydra imports it at every start: nothing heavy may be imported at the top.
"""

import contextlib
import hashlib
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from igb import _checks
from igb._checks import InputError, one_line, one_line_exit
from igb._files import make_folder
from igb._imports import quick_imports
from igb._paths import is_given, quoted
from igb.folder import identity, schema, state
from igb.folder.lock import Lock
from igb.folder.schema import log_path
from igb.sweeps.jobs import check_jobs, label_of, refuse_several_devices, swept_keys

LONGEST_NAME = 150  # bytes; file systems allow 255, and others add to it


@dataclass
class IgbSweeperConf:
    """The options of Hydra's basic sweeper, and `repeat_diverged`, which restarts diverged runs from scratch."""

    _target_: str = "hydra_plugins.igb_sweeper.IgbSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    repeat_diverged: bool = False


class IgbSweeper(Sweeper):
    """Runs each combination of the swept values that is not finished; ends non-zero if one failed, after the others."""

    def __init__(self, max_batch_size: int | None, params: Any = None, repeat_diverged: bool = False) -> None:
        with one_line_exit():
            if max_batch_size is not None:
                _checks.integer("hydra.sweeper.max_batch_size", max_batch_size, at_least=1)
            self.repeat_diverged = _checks.boolean("hydra.sweeper.repeat_diverged", repeat_diverged)
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives, and make the launcher."""
        self._context, self._config = hydra_context, config
        self._launcher: Any = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Check all jobs, make the sweep's folder, launch what is not finished, and say how each run ended."""
        # Not at the top: Hydra executes its own plugins anew when it starts, and looks for classes by their names.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = self._context.config_loader
        params = [f"{key}={value}" for key, value in self.params.items()]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *arguments])
        named = not is_given(self._config.hydra, "hydra.sweep.subdir")
        (given,) = BasicSweeper.split_arguments(overrides, None)
        sweep, new = self._folder()
        self._data: dict[str, dict[str, Any]] = {}  # entries of run.json, by the config of the data
        with one_line_exit():
            names = run_names(given, sweep, self._is_on_same_data) if named else []
        names = names or [self._subdir(job, k) for k, job in enumerate(given)]
        jobs = [[*job, f"hydra.sweep.subdir={quoted(name)}"] for job, name in zip(given, names, strict=True)]
        configs = [loader.load_sweep_config(self._config, job) for job in jobs]
        runs_here = getattr(self._launcher, "runs_here", True)  # Hydra's own launchers do not say
        check_jobs(configs, [None if new else sweep / name for name in names], runs_here)
        with one_line_exit():
            runs = zip(names, configs, strict=True)
            if to_do := [config for name, config in runs if new or not state.final_status(sweep / name, config)]:
                getattr(self._launcher, "check", refuse_several_devices)(to_do)
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise InputError(f"duplicate run: two jobs have the same overrides, {twice[0]}")
            if not new and (sweep / "multirun.yaml").exists() and not (sweep / schema.PLAN).exists():
                raise InputError(f"{sweep}/multirun.yaml was written by another program; choose another folder")
            sweep = make_folder(sweep, exclusively=new)
            lock = Lock(sweep)
            lock.acquire()
            with read_write(self._config), open_dict(self._config):
                self._config.hydra.sweep.dir = str(sweep)
                self._config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(sweep))}")
            OmegaConf.save(self._config, sweep / "multirun.yaml")
            state.plan(sweep, names)
        print(f"igb: to resume this sweep after an interruption: {_command(sweep if new else None)}", flush=True)
        left = []
        for job, config, name in zip(jobs, configs, names, strict=True):
            status = state.final_status(sweep / name, config)
            if status == "diverged" and self.repeat_diverged:
                shutil.rmtree(sweep / name)
                status = None
            if status is None:
                left.append(job)
        if len(left) < len(jobs):
            print(f"igb: {len(jobs) - len(left)} of {len(jobs)} runs are already finished", flush=True)
        returns: list[JobReturn] = []
        size = self.max_batch_size or len(left)
        with one_line_exit():
            for start in range(0, len(left), size or 1):
                returns += self._launcher.launch(left[start : start + size], initial_job_idx=start)
        lock.release()
        return self._sum_up(sweep, dict(zip(names, configs, strict=True)), {_name(job): job for job in returns})

    def _is_on_same_data(self, folder: Path, job: Sequence[str]) -> bool:
        """Whether the run in a folder is on a job's data; they are loaded only if the run's `data.root` was another."""
        config = self._context.config_loader.load_sweep_config(self._config, list(job))
        if not identity.is_known_by_images(folder, config):
            return True
        with quick_imports():
            from igb import experiment

        key = OmegaConf.to_yaml(config.data, resolve=False)
        if key not in self._data:
            self._data[key] = experiment.data_entries(config)
        entries = state.read(folder) or {}
        return "images" in entries and identity.is_on_same_data(entries, self._data[key])

    def _subdir(self, job: Sequence[str], number: int) -> str:
        """The folder of a job by the user's own `hydra.sweep.subdir`."""
        config = self._context.config_loader.load_sweep_config(self._config, list(job))
        with open_dict(config):
            config.hydra.job.num = number
        return str(config.hydra.sweep.subdir)

    def _sum_up(self, sweep: Path, runs: dict[str, DictConfig], returns: dict[str, JobReturn]) -> dict[str, JobReturn]:
        """Report how the runs ended, as run.json says; exit non-zero if one failed."""
        swept = swept_keys(self._config)
        failed = []
        ended: Counter[str] = Counter()
        for name, config in runs.items():
            error = returns[name]._return_value if name in returns else None
            try:
                status = state.final_status(sweep / name, config)
                reason = (state.read(sweep / name) or {}).get("reason")
            except InputError as damaged:
                status, error = None, damaged
            if status and not isinstance(error, Exception):
                ended[status] += 1
                continue
            if isinstance(error, Exception):
                reason = one_line(error)
            reason = reason or "no final status: killed, or its node was lost"
            label = label_of(config.hydra.overrides.task, swept) or name
            failed.append(f"igb: failed: {label}: {reason}; see {log_path(sweep / name)}")
        counts = ", ".join(f"{ended[status]} {status}" for status in schema.FINAL)
        print("\n".join([*failed, f"igb: {counts}, {len(failed)} failed"]), file=sys.stderr, flush=True)
        if failed:
            sys.exit(1)
        print(f"igb: the sweep is in {sweep}; igb-report {sweep} draws its figures")
        return returns

    def _folder(self) -> tuple[Path, bool]:
        """The sweep's folder, and whether it has to be a new one: not if the user named it."""
        if is_given(self._config.hydra, "hydra.sweep.dir"):
            return Path(self._config.hydra.sweep.dir), False
        if self._config.name is None:
            return Path(self._config.hydra.sweep.dir), True
        name = str(self._config.name)
        if name in ("", ".", "..") or "/" in name:
            sys.exit(f"igb: name={name} must be the name of a folder in multirun/")
        return Path("multirun") / name, False


def run_name(overrides: Sequence[str]) -> str:
    """The folder name of a run in a sweep: its overrides, sorted, without `name`, in safe characters.

    At most 150 bytes. Where characters had to go, a hash of the overrides keeps names apart.
    """
    kept = sorted(override for override in overrides if not override.startswith(("name=", "hydra.", "hydra/")))
    full = ",".join(kept) or "defaults"
    safe = re.sub(r"[^A-Za-z0-9_.,=+~-]", "-", full)
    if safe == full and len(full) <= LONGEST_NAME:
        return full
    ending = f"-{hashlib.sha256(full.encode()).hexdigest()[:10]}"
    return safe[: LONGEST_NAME - len(ending)] + ending


def run_names(
    jobs: Sequence[Sequence[str]], sweep: Path, is_on_same_data: Callable[[Path, Sequence[str]], bool]
) -> list[str]:
    """The folder name of each job of a sweep: its `run_name`, or that of the run in the sweep that it resumes.

    It resumes a run whose overrides differ only in keys that may differ or grow, if that is on the same data.
    """
    existing: dict[frozenset[str], list[str]] = {}
    for file in sweep.glob("*/.hydra/overrides.yaml"):
        with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):  # of a file that was not written to its end
            overrides = yaml.safe_load(file.read_text(encoding="utf-8"))
            if isinstance(overrides, list) and all(isinstance(item, str) for item in overrides):
                existing.setdefault(identity.identifying_overrides(overrides), []).append(file.parent.parent.name)
    wanted = [identity.identifying_overrides(job) for job in jobs]
    names = []
    for job, its in zip(jobs, wanted, strict=True):
        name, others = run_name(job), existing.get(its, [])
        alone = len(others) == 1 and wanted.count(its) == 1  # else runs differ by their limits alone
        resumes = alone and (others[0] == name or is_on_same_data(sweep / others[0], job))
        names.append(others[0] if resumes else name)
    return names


def _name(job: JobReturn) -> str:
    config: DictConfig | None = job.hydra_cfg
    assert config is not None
    return str(config.hydra.sweep.subdir)


def _command(sweep: Path | None) -> str:
    """The command that resumes the sweep; it names the folder where it would not find it by itself."""
    plain = re.fullmatch(r"[A-Za-z0-9_./-]*", str(sweep))
    folder = [f"hydra.sweep.dir={sweep if plain else quoted(str(sweep))}"] if sweep else []
    return shlex.join(["igb", *sys.argv[1:], *folder])
