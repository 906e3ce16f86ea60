"""Launchers that start every job of a sweep as an `igb` process of its own: on this machine, or through SLURM.

They live here because Hydra only accepts launchers from the `hydra_plugins` namespace, which it imports at every start:
nothing heavy may be imported at the top.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from igb import _checks, folders, slurm
from igb._checks import InputError, one_line
from igb._paths import config_folder, log_path, make_folder, quoted
from igb.cli import one_line_exit

OF_IGB = {"array", "comment", "error", "job-name", "open-mode", "output", "signal"}  # options of sbatch
OWN = ("hydra.mode=", "hydra/launcher=", "hydra.launcher.", "hydra.sweep.", "hydra/sweeper=", "hydra.sweeper.")
LOOK_EVERY = 0.2  # seconds, at processes
QUEUE_EVERY = 5.0  # seconds, at SLURM's queue
PATIENCE = 20.0  # seconds, for the last words of a job

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A job of a sweep: its config, its folder, and the arguments of the `igb` command that carries it out."""

    config: DictConfig
    folder: Path
    arguments: list[str]

    def ended(self, error: Exception | None) -> JobReturn:
        """What Hydra is told of it."""
        status = JobStatus.FAILED if error else JobStatus.COMPLETED
        overrides = list(self.config.hydra.overrides.task)
        return JobReturn(overrides=overrides, hydra_cfg=self.config, status=status, _return_value=error)


class ProcessLauncher(Launcher):
    """What both launchers share: from the overrides of a job to a command."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config

    def jobs(self, job_overrides: Sequence[Sequence[str]]) -> list[Job]:
        """The jobs of a sweep, their folders made."""
        loader = self.hydra_context.config_loader
        found = []
        for overrides in job_overrides:
            config = loader.load_sweep_config(self.config, list(overrides))
            folder = Path(config.hydra.sweep.dir).resolve() / config.hydra.sweep.subdir
            make_folder(folder, exclusively=False)
            own = [item for item in config.hydra.overrides.hydra if not item.lstrip("+").startswith(OWN)]
            to_file = "hydra.job_logging.root.handlers=[file]"  # where all that the process prints goes too
            flags = ["--config-name", str(config.hydra.job.config_name)]
            for source in config.hydra.runtime.config_sources:
                if source.provider == "command-line":
                    flags += ["--config-dir", str(source.path)]
                elif source.provider == "main" and Path(source.path) != config_folder():
                    flags += ["--config-path", str(source.path)]
            where = f"hydra.run.dir={quoted(str(folder))}"
            found.append(Job(config, folder, [*flags, to_file, *own, *config.hydra.overrides.task, where]))
        return found


class LocalLauncher(ProcessLauncher):
    """Runs the jobs of a sweep on this machine, so that one that is killed is that job's failure alone.

    Args:
        n_jobs: processes at a time; each computes with cores / n_jobs threads unless `compute.threads` is set.
    """

    def __init__(self, n_jobs: int) -> None:
        with one_line_exit():
            self.n_jobs = _checks.integer("hydra.launcher.n_jobs", n_jobs, at_least=1)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; Ctrl-C and SIGTERM stop those that run and start no more."""
        jobs = self.jobs(job_overrides)
        waiting = list(enumerate(jobs))
        running: dict[int, subprocess.Popen[bytes]] = {}
        returns: dict[int, JobReturn] = {}
        before = signal.signal(signal.SIGTERM, _exit)
        try:
            while waiting or running:
                # A process that outlived the sweep that started it is waited for.
                for entry in [entry for entry in waiting if not folders.in_use(entry[1].folder)]:
                    if len(running) < self.n_jobs:
                        waiting.remove(entry)
                        number, job = entry
                        running[number] = self._start(job)
                        print(f"igb: started {job.config.hydra.sweep.subdir}", flush=True)
                for number in [number for number, process in running.items() if process.poll() is not None]:
                    returns[number] = jobs[number].ended(_error(running.pop(number).returncode))
                    print(f"igb: ended {jobs[number].config.hydra.sweep.subdir}", flush=True)
                time.sleep(LOOK_EVERY)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
            signal.signal(signal.SIGTERM, before)
        return [returns[number] for number in range(len(jobs))]

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        threads = max(1, folders.cores() // self.n_jobs)
        with open(log_path(job.folder), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "igb", *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the sweep, which then tells its jobs once
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )


def _error(status: int) -> Exception | None:
    """What an exit status says, where the run itself could not say it."""
    return RuntimeError(f"killed by {signal.Signals(-status).name}") if status < 0 else None


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


class SlurmLauncher(ProcessLauncher):
    """Submits the jobs of a sweep as a SLURM job array and waits until each has ended.

    What is alive is what SLURM's queue says, and how a run ended is what its run.json says. A job that is in the queue
    already, from a sweep that was left, is waited for.

    Args:
        time: minutes that a job may take, after which it is queued again.
        signal_seconds: before that limit, when a job is told to write its checkpoint.
        cpus: of a task.
        gpus: of a job.
        memory: of a job, such as `16GB`.
        parallel: jobs at a time.
        setup: lines of shell before a job.
        options: other options of sbatch.
        python: the command that runs Python in a job; the Python that submits it unless given.
    """

    def __init__(
        self,
        time: int,
        signal_seconds: int,
        cpus: int,
        gpus: int,
        memory: str,
        parallel: int,
        setup: Sequence[str],
        options: Mapping[str, Any],
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        python: str | None = None,
    ) -> None:
        self.python = python
        with one_line_exit(), _checks.within("hydra.launcher"):
            _checks.integer("time", time, at_least=1)
            _checks.integer("signal_seconds", signal_seconds, at_least=0, at_most=60 * time - 1)
            if isinstance(setup, str) or not isinstance(setup, Sequence):
                raise InputError(f"setup={setup} must be a list of lines of shell")
            if not isinstance(options, Mapping):
                raise InputError(f"options={options} must be options of sbatch and their values")
            if taken := sorted(OF_IGB & options.keys()):
                raise InputError(f"options.{taken[0]}={options[taken[0]]} must not be given; igb needs that option")
            self.seconds = 60 * time - signal_seconds - 60  # SLURM may send it a minute early
            self.parameters: dict[str, Any] = {
                "time": time,
                "signal_delay_s": signal_seconds,
                "cpus_per_task": _checks.integer("cpus", cpus, at_least=1),
                "gpus_per_node": _checks.integer("gpus", gpus, at_least=0) or None,
                "mem": memory,
                "array_parallelism": _checks.integer("parallel", parallel, at_least=1),
                "setup": list(setup),
                "additional_parameters": {"requeue": True, **options},
                "partition": partition,
                "account": account,
                "qos": qos,
            }

    def check(self, configs: Sequence[DictConfig]) -> None:
        """Raise InputError if jobs of these configs cannot be submitted."""
        gpus = self.parameters["gpus_per_node"]
        for devices in {config.trainer.devices for config in configs}:
            if gpus not in (None, devices):
                raise InputError(f"hydra.launcher.gpus={gpus} must be trainer.devices={devices}, or 0")
        if not shutil.which("sbatch") or not shutil.which("srun"):
            raise InputError("hydra/launcher=slurm needs the commands of SLURM, such as sbatch and srun")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs that are not in the queue, and wait for all."""
        jobs = {job.config.hydra.sweep.subdir: job for job in self.jobs(job_overrides)}
        records = Path(self.config.hydra.sweep.dir).resolve() / "slurm"
        try:
            known = self._in_queue(records)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"SLURM's queue does not answer: {slurm.said(error)}") from error
        left = [name for name in jobs if name not in known]
        ids = {name: job.id for name, job in known.items() if name in jobs}
        for devices in {jobs[name].config.trainer.devices for name in left}:  # the jobs of an array are alike
            alike = {name: jobs[name] for name in left if jobs[name].config.trainer.devices == devices}
            ids |= self._submit(alike, devices, make_folder(records / "array", exclusively=True))
        print(f"igb: {len(left)} jobs submitted, {len(jobs) - len(left)} in the queue already", flush=True)
        try:
            errors = self._wait(records, jobs)
        except KeyboardInterrupt:
            numbers = sorted({identity.partition("_")[0] for identity in ids.values()})
            print(f"\nigb: the jobs go on. To cancel them: scancel {' '.join(numbers)}", file=sys.stderr)
            print("igb: to wait for them again, give the same command, or that of the first line", file=sys.stderr)
            raise
        return [job.ended(errors[name]) for name, job in jobs.items()]

    def _submit(self, jobs: dict[str, Job], devices: int, folder: Path) -> dict[str, str]:
        """Submit jobs as an array, of a task for each device, whose records are in `folder`; return the id of each."""
        import submitit

        from igb import cli

        (folder / "runs.json").write_text(json.dumps(list(jobs)))  # before there is a job, so that none is unknown
        executor = submitit.SlurmExecutor(folder, python=self.python)
        executor.update_parameters(
            job_name=self.config.hydra.job.name,
            comment=str(folder),
            ntasks_per_node=devices,
            srun_args=[
                "--kill-on-bad-exit=1",  # the other processes of a run would wait for one that failed
                f"--cpus-per-task={self.parameters['cpus_per_task']}",  # which srun does not take from sbatch
            ],
            stderr_to_stdout=True,
            **{name: value for name, value in self.parameters.items() if value is not None},
        )
        arguments, places = zip(*((job.arguments, job.folder) for job in jobs.values()), strict=True)
        try:
            with _out_of_a_job():
                submitted = executor.map_array(cli.slurm_job, arguments, places, [self.seconds] * len(jobs))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise InputError(f"SLURM refused the jobs: {one_line(error)}") from error
        return {name: job.job_id for name, job in zip(jobs, submitted, strict=True)}

    def _in_queue(self, records: Path) -> dict[str, Any]:
        """The jobs of this sweep that are in the queue, by the names of their runs."""
        found = {}
        for job in slurm.queue():  # of all sweeps
            folder = Path(job.comment)
            if folder.parent == records and (folder / "runs.json").exists():
                found[json.loads((folder / "runs.json").read_text())[job.index]] = job
        return found

    def _wait(self, records: Path, jobs: dict[str, Job]) -> dict[str, Exception | None]:
        """Wait until no job is in the queue; what is wrong with each, where the run itself could not say it."""
        seen: dict[str, str] = {}
        gone: dict[str, float] = {}  # when a job was first missed
        ended: dict[str, Exception | None] = {}
        while len(ended) < len(jobs):
            try:
                alive = self._in_queue(records)
            except (OSError, subprocess.SubprocessError) as error:
                log.warning("squeue does not answer (%s); trying again", slurm.said(error))
                time.sleep(QUEUE_EVERY)
                continue
            for name in [name for name in jobs if name not in ended]:
                state = alive[name].standing if name in alive else "ended"
                status = _status(jobs[name].folder)
                if state == "ended" and status not in (*folders.FINAL, "failed"):
                    # The last words may take a while to come through a network file system.
                    if time.monotonic() - gone.setdefault(name, time.monotonic()) < PATIENCE:
                        continue
                    ended[name] = RuntimeError(
                        "its job left the queue; it was cancelled or killed, or its node was lost"
                    )
                elif state == "ended":
                    ended[name] = None
                else:
                    gone.pop(name, None)
                if state != seen.get(name):
                    print(f"igb: {state}: {name}", flush=True)
                    seen[name] = state
            if len(ended) < len(jobs):
                time.sleep(QUEUE_EVERY)
        return ended


def _status(folder: Path) -> str | None:
    """What the run in a folder says of itself, if that can be read."""
    try:
        return str((folders.read(folder) or {}).get("status"))
    except InputError:
        return None


@contextlib.contextmanager
def _out_of_a_job() -> Iterator[None]:
    """Hide the variables of the job that this process may be in, which would reach into the jobs it submits."""
    import submitit

    config = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext():
        if config is not None:
            os.environ["SLURM_CONF"] = config
        yield
