"""From the overrides of a job of a sweep to the `igb` command that carries it out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from igb._checks import InputError, one_line_exit
from igb._files import make_folder
from igb._imports import quick_imports
from igb._paths import config_folder, import_from, quoted
from igb.folder import state
from igb.folder.schema import FINAL

SWEEP_ONLY = ("hydra.mode=", "hydra/launcher=", "hydra.launcher.", "hydra.sweep.", "hydra/sweeper=", "hydra.sweeper.")


class Job(NamedTuple):
    """A job of a sweep: its label, config and folder, and the arguments of the `igb` command that carries it out."""

    label: str
    config: DictConfig
    folder: Path
    arguments: list[str]

    def ended(self, error: Exception | None) -> JobReturn:
        """Hydra's record of a job that ended, with its objective or its status."""
        value: Exception | float | str | None = error
        try:
            entries = state.read(self.folder) or {}
            if error is None and entries.get("status") not in FINAL:
                value = RuntimeError(entries.get("reason") or "no final status: killed, or its node was lost")
            elif error is None:
                value = self._result(str(entries["status"]))
        except (OSError, ValueError) as damaged:
            value = damaged
        status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
        overrides = list(self.config.hydra.overrides.task)
        return JobReturn(overrides=overrides, hydra_cfg=self.config, status=status, _return_value=value)

    def _result(self, status: str) -> float | str:
        if self.config.get("objective") is None:
            return status
        from igb.report.summary import objective

        return objective(self.folder, self.config.objective)


class ProcessLauncher(Launcher):
    """Makes a command from the overrides of each job, for the launchers that start one. A launcher checks its jobs."""

    runs_here = True  # so that this machine needs the devices

    def check(self, configs: Sequence[DictConfig]) -> None:
        """Raise InputError if jobs of these configs cannot be launched."""
        refuse_several_devices(configs)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config

    def jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """Make the jobs of a sweep, counted from `first` on, and their folders."""
        loader = self.hydra_context.config_loader
        swept = swept_keys(self.config)
        found = []
        for number, overrides in enumerate(job_overrides, first):
            config = loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.num = number  # the name of its folder, unless igb's sweeper gives it one
            folder = Path(config.hydra.sweep.dir).resolve() / config.hydra.sweep.subdir
            make_folder(folder, exclusively=False)
            own = [item for item in config.hydra.overrides.hydra if not item.lstrip("+").startswith(SWEEP_ONLY)]
            to_file = "hydra.job_logging.root.handlers=[file]"  # which also takes what the process prints
            flags = ["--config-name", str(config.hydra.job.config_name)]
            for source in config.hydra.runtime.config_sources:
                if source.provider == "command-line":
                    flags += ["--config-dir", str(source.path)]
                elif source.provider == "main" and Path(source.path) != config_folder():
                    flags += ["--config-path", str(source.path)]
            where = f"hydra.run.dir={quoted(str(folder))}"
            label = label_of(config.hydra.overrides.task, swept) or str(config.hydra.sweep.subdir)
            found.append(Job(label, config, folder, [*flags, to_file, *own, *config.hydra.overrides.task, where]))
        with one_line_exit():  # a sweeper other than igb's has not asked
            self.check([job.config for job in found])
        return found


def swept_keys(config: DictConfig) -> set[str]:
    """The keys and groups that the config of a sweep gives several values."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(task, list)
    given = OverridesParser.create().parse_overrides([*params, *task])
    return {override.key_or_group for override in given if override.is_sweep_override()}


def label_of(overrides: Sequence[str], swept: set[str]) -> str:
    """What tells a job from the others of its sweep, such as `loss=bl, seed=1`; empty where nothing is swept."""
    return ", ".join(item for item in overrides if item.lstrip("+").partition("=")[0] in swept)


def label_of_this(hydra: Any) -> str:
    """The label of the job with this config of Hydra; empty if a sweeper other than igb's left no multirun.yaml."""
    file = Path(hydra.sweep.dir) / "multirun.yaml"
    if not file.exists():
        return ""
    sweep = OmegaConf.load(file)
    assert isinstance(sweep, DictConfig)
    return label_of(hydra.overrides.task, swept_keys(sweep))


def refuse_several_devices(configs: Sequence[DictConfig]) -> None:
    """Raise InputError for a job on several devices, each of which would need a process of its own."""
    for key in ("devices", "num_nodes"):
        if (count := max(config.trainer.get(key, 1) for config in configs)) > 1:
            raise InputError(f"trainer.{key}={count} in a sweep needs hydra/launcher=slurm")


def check_jobs(configs: Sequence[DictConfig], folders: Sequence[Path | None], on_this_machine: bool = True) -> None:
    """Exit with one line if a value of a job is wrong, or if its folder holds another run.

    A job in a new folder has None. Jobs `on_this_machine` need its devices.
    """
    with one_line_exit():
        with quick_imports():
            from igb import experiment
        from igb.folder import identity

        for config, folder in zip(configs, folders, strict=True):
            experiment.refuse_mixtures(config.hydra.overrides.task, config)
            import_from(config.hydra.runtime)
            experiment.build(config, on_this_machine)
            if folder is not None:
                identity.refuse_other(folder, without_hydra(config))
                state.final_status(folder, config)


def without_hydra(config: DictConfig) -> DictConfig:
    """The config of a run without Hydra's own part, as it is recorded."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config
