"""The sweeper of igb: Hydra's, which checks every job before the first starts and outlives the failure of one.

It lives here because Hydra only accepts sweepers from the `hydra_plugins` namespace, which it imports at every start:
nothing heavy may be imported at the top.
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict, read_write

from igb._checks import InputError
from igb._paths import is_given, make_folder

LONGEST_NAME = 150  # bytes; file systems allow 255, and others add to it


@dataclass
class IgbSweeperConf(BasicSweeperConf):
    """Hydra's options for a sweep, under this sweeper."""

    _target_: str = "hydra_plugins.igb_sweeper.IgbSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="igb", node=IgbSweeperConf, provider="igb")


class IgbSweeper(BasicSweeper):
    """Runs every combination of the swept values; ends non-zero if a job failed, after all the others."""

    def sweep(self, arguments: list[str]) -> Any:
        """Check all jobs, make the sweep's folder, launch, and name the jobs that failed."""
        from igb import cli

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(overrides, self.max_batch_size)
        folder, new = self._folder()
        names: list[str] = []
        if not is_given(self.config.hydra, "hydra.sweep.subdir"):
            names = [run_name(job) for batch in batches for job in batch]
            batches = [[[*job, f"hydra.sweep.subdir='{run_name(job)}'"] for job in batch] for batch in batches]
        jobs = [loader.load_sweep_config(self.config, job) for batch in batches for job in batch]
        cli.check_jobs(jobs, [] if new else [folder / name for name in names])
        with cli.one_line_exit():
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise InputError(f"{twice[0]} stands more than once in the sweep; a run needs overrides of its own")
            folder = make_folder(folder, exclusively=new)
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(folder)
            self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={_quoted(str(folder))}")
        OmegaConf.save(self.config, folder / "multirun.yaml")
        returns: list[Sequence[JobReturn]] = []
        for batch in batches:
            returns.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returns))))
        failed: list[Any] = [job for batch in returns for job in batch if job.status is not JobStatus.COMPLETED]
        for job in failed:
            log = Path(job.hydra_cfg.hydra.runtime.output_dir) / f"{job.hydra_cfg.hydra.job.name}.log"
            print(f"igb: failed: {' '.join(job.overrides)}; see {log}", file=sys.stderr)
        if failed:
            sys.exit(1)
        print(f"igb: the sweep is in {folder}; igb-report {folder} draws its figures")
        return returns

    def _folder(self) -> tuple[Path, bool]:
        """The sweep's folder, and whether it has to be a new one: not if the user named it."""
        assert self.config is not None
        if is_given(self.config.hydra, "hydra.sweep.dir"):
            return Path(self.config.hydra.sweep.dir), False
        if self.config.name is None:
            return Path(self.config.hydra.sweep.dir), True
        name = str(self.config.name)
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


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
