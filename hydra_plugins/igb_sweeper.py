"""The sweeper of igb: Hydra's, which checks every job before the first starts and outlives the failure of one.

It lives here because Hydra only accepts sweepers from the `hydra_plugins` namespace, which it imports at every start:
nothing heavy may be imported at the top.
"""

import hashlib
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict, read_write

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
        if not self._given("hydra.sweep.subdir"):
            batches = [[[*job, f"hydra.sweep.subdir='{run_name(job)}'"] for job in batch] for batch in batches]
        folder = Path(self.config.hydra.sweep.dir)
        if self.config.name is not None and not self._given("hydra.sweep.dir"):
            folder = Path("multirun") / str(self.config.name)
        cli.check_jobs([loader.load_sweep_config(self.config, job) for batch in batches for job in batch], folder)
        folder = _make(folder, exclusively=self.config.name is None and not self._given("hydra.sweep.dir"))
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

    def _given(self, key: str) -> bool:
        """Whether the command line sets a key of Hydra's."""
        assert self.config is not None
        return any(override.lstrip("+").startswith(f"{key}=") for override in self.config.hydra.overrides.hydra)


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


def _make(folder: Path, *, exclusively: bool) -> Path:
    """Make the sweep's folder; `exclusively` appends a number if another sweep has the name already."""
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=not exclusively)
            return folder
        except FileExistsError:
            if not exclusively:
                sys.exit(f"igb: the sweep folder {folder} cannot be written (a file has that name)")
            folder = folder.with_name(f"{folder.name.partition('_')[0]}_{number}")
        except OSError as error:
            sys.exit(f"igb: the sweep folder {folder} cannot be written ({error.strerror})")
    raise AssertionError


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
