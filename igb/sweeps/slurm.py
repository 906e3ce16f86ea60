"""The launcher `slurm`: every job of a sweep as a task of a SLURM job array."""

import contextlib
import json
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from igb import _checks, _slurm
from igb._checks import InputError, one_line, one_line_exit
from igb._files import make_folder
from igb.folder import schema, state
from igb.folder.schema import checkpoint_path, log_path
from igb.sweeps.jobs import Job, ProcessLauncher
from igb.training.stopping import Stop, StoppedError

RESERVED_OPTIONS = {"array", "comment", "error", "job-name", "open-mode", "output", "signal"}  # options of sbatch
REQUEUE_SECONDS = 20  # for SLURM to answer
PATIENCE = 20.0  # seconds, for the final status of a job

log = logging.getLogger(__name__)


class SlurmLauncher(ProcessLauncher):
    """Submits the jobs of a sweep as a SLURM job array and waits until each has ended.

    SLURM's queue says which jobs are alive, and run.json how a run ended. A job that an earlier command left in the
    queue is waited for, not submitted again.

    Args:
        time: minutes that a job may take, after which it is requeued.
        signal_seconds: seconds before that limit at which a job is told to write its checkpoint.
        cpus: CPU cores per task.
        gpus: GPUs per node.
        memory: memory per node, such as `16GB`.
        parallel: the number of jobs that run at the same time.
        setup: shell commands to run before a job.
        options: other options of sbatch, by their names.
        poll_seconds: seconds between looks at SLURM's queue.
        nodes: nodes per job (default: as `trainer.num_nodes` says).
        python: the command that runs Python in a job (default: the Python that submits it).
    """

    runs_here = False

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
        poll_seconds: float = 30,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        nodes: int | None = None,
        python: str | None = None,
    ) -> None:
        self.python = python
        with one_line_exit(), _checks.within("hydra.launcher"):
            _checks.integer("time", time, at_least=1)
            _checks.integer("signal_seconds", signal_seconds, at_least=0, at_most=60 * time - 1)
            if isinstance(setup, str) or not isinstance(setup, Sequence):
                raise InputError(f"setup={setup} must be a list of shell commands")
            if not isinstance(options, Mapping):
                raise InputError(f"options={options} must be a mapping of sbatch options to values")
            if taken := sorted(RESERVED_OPTIONS & options.keys()):
                raise InputError(f"options.{taken[0]}={options[taken[0]]} is set by igb and cannot be overridden")
            self.nodes = None if nodes is None else _checks.integer("nodes", nodes, at_least=1)
            self.poll_seconds = _checks.number("poll_seconds", poll_seconds, at_least=0.1)
            self.seconds = 60 * time - signal_seconds - 60  # SLURM may send it a minute early
            self.parameters: dict[str, Any] = {
                "time": time,
                "signal_delay_s": signal_seconds,
                "cpus_per_task": _checks.integer("cpus", cpus, at_least=1),
                "gpus_per_node": _checks.integer("gpus", gpus, at_least=0) or None,
                "mem": memory,
                "array_parallelism": _checks.integer("parallel", parallel, at_least=1),
                "setup": ["export PYTHONSAFEPATH=1", *setup],  # a random.py in the folder is no module of Python
                "additional_parameters": {"requeue": True, **options},
                "partition": partition,
                "account": account,
                "qos": qos,
            }

    def check(self, configs: Sequence[DictConfig]) -> None:
        """Raise InputError if jobs of these configs cannot be submitted."""
        gpus = self.parameters["gpus_per_node"]
        for nodes, devices in {_shape(config) for config in configs}:
            if gpus not in (None, devices):
                raise InputError(f"hydra.launcher.gpus={gpus} must equal trainer.devices ({devices}) or be 0")
            if self.nodes not in (None, nodes):
                raise InputError(f"hydra.launcher.nodes={self.nodes} must equal trainer.num_nodes ({nodes}) or be null")
        if not shutil.which("sbatch") or not shutil.which("srun"):
            raise InputError("hydra/launcher=slurm: sbatch or srun not found on PATH")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs that are not in the queue, and wait for all."""
        with one_line_exit():
            return self._launch(job_overrides, initial_job_idx)

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = {job.config.hydra.sweep.subdir: job for job in self.jobs(job_overrides, initial_job_idx)}
        records = Path(self.config.hydra.sweep.dir).resolve() / "slurm"
        try:
            known = self._in_queue(records)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"squeue failed: {_slurm.error_text(error)}") from error
        left = [name for name in jobs if name not in known]
        ids = {name: job.id for name, job in known.items() if name in jobs}
        for shape in {_shape(jobs[name].config) for name in left}:  # the jobs of an array are alike
            alike = {name: jobs[name] for name in left if _shape(jobs[name].config) == shape}
            ids |= self._submit(alike, *shape, make_folder(records / "array", exclusively=True))
        print(f"igb: {len(left)} jobs submitted, {len(jobs) - len(left)} already in the queue", flush=True)
        try:
            errors = self._wait(records, jobs)
        except KeyboardInterrupt:
            numbers = sorted({identity.partition("_")[0] for identity in ids.values()})
            print(f"\nigb: the jobs keep running; cancel them with: scancel {' '.join(numbers)}", file=sys.stderr)
            print("igb: to resume waiting, rerun the same command or the one printed first", file=sys.stderr)
            raise
        return [job.ended(errors[name]) for name, job in jobs.items()]

    def _submit(self, jobs: dict[str, Job], nodes: int, devices: int, folder: Path) -> dict[str, str]:
        """Submit jobs as an array, of a task for each device, whose records are in `folder`; return the id of each."""
        import submitit

        (folder / "runs.json").write_text(
            json.dumps(list(jobs)), encoding="utf-8"
        )  # before there is a job, so that none is unknown
        executor = submitit.SlurmExecutor(folder, python=self.python)
        executor.update_parameters(
            job_name=self.config.hydra.job.name,
            comment=str(folder),
            nodes=nodes,
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
                submitted = executor.map_array(slurm_job, arguments, places, [self.seconds] * len(jobs))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise InputError(f"SLURM refused the jobs: {one_line(error)}") from error
        return {name: job.job_id for name, job in zip(jobs, submitted, strict=True)}

    def _in_queue(self, records: Path) -> dict[str, Any]:
        """The jobs of this sweep that are in the queue, by the names of their runs."""
        found = {}
        for job in _slurm.queue():  # of all sweeps
            folder = Path(job.comment)
            if folder.parent == records and (folder / "runs.json").exists():
                with contextlib.suppress(OSError, ValueError, IndexError):  # a damaged list hides no other job
                    found[json.loads((folder / "runs.json").read_text(encoding="utf-8"))[job.index]] = job
        return found

    def _wait(self, records: Path, jobs: dict[str, Job]) -> dict[str, Exception | None]:
        """Wait until no job is in the queue; return the error of each, None where the run recorded how it ended."""
        seen: dict[str, str] = {}
        gone: dict[str, float] = {}  # when a job was first missed
        ended: dict[str, Exception | None] = {}
        while len(ended) < len(jobs):
            try:
                alive = self._in_queue(records)
            except (OSError, subprocess.SubprocessError) as error:
                log.warning("squeue failed (%s); trying again", _slurm.error_text(error))
                time.sleep(self.poll_seconds)
                continue
            for name in [name for name in jobs if name not in ended]:
                state_text = alive[name].state_text if name in alive else "ended"
                status = _status(jobs[name].folder)
                if state_text == "ended" and status not in (*schema.FINAL, "failed"):
                    # run.json may take a while to arrive through a network file system.
                    if time.monotonic() - gone.setdefault(name, time.monotonic()) < PATIENCE:
                        continue
                    ended[name] = RuntimeError("no final status: its job was cancelled or killed, or its node was lost")
                elif state_text == "ended":
                    ended[name] = None
                else:
                    gone.pop(name, None)
                if state_text != seen.get(name):
                    print(f"igb: {state_text}: {jobs[name].label}", flush=True)
                    seen[name] = state_text
            if len(ended) < len(jobs):
                time.sleep(self.poll_seconds)
        return ended


def _shape(config: DictConfig) -> tuple[int, int]:
    """The nodes of a job, and the devices of each."""
    return config.trainer.get("num_nodes", 1), config.trainer.devices


def _status(folder: Path) -> str | None:
    """The status in run.json, if that can be read."""
    try:
        return str((state.read(folder) or {}).get("status"))
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


def slurm_job(arguments: Sequence[str], folder: Path, seconds: float) -> None:
    """Run `igb` in a task of a SLURM job that has a limit of `seconds`, and send all it prints to the run's log.

    SIGUSR2 says that the job is near its time limit or about to be preempted: it writes a checkpoint and is requeued,
    unless its whole time was too short for a first checkpoint. SIGTERM comes from `scancel` and SLURM's own
    requeue, which need no help.
    """
    started, before = time.monotonic(), _written(checkpoint_path(folder))
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if not first:  # only the first task writes
        arguments = [*arguments, "hydra.output_subdir=null"]
    with open(log_path(folder), "ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.argv = ["igb", *arguments]
    sys.path.append(str(Path.cwd()))  # last, as `python -m igb` has it
    status: object = 0
    with Stop():  # from the start: before the run has its own handlers, submitit's would act
        try:
            runpy.run_module("igb", run_name="__main__")
        except StoppedError as stopped:
            status = 128 + stopped.number
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
    if status == 128 + signal.SIGUSR2 and not first:
        time.sleep(REQUEUE_SECONDS)  # a task that fails kills the others, while the first still requeues
    elif status == 128 + signal.SIGUSR2:
        advanced = _written(checkpoint_path(folder)) != before
        if advanced or time.monotonic() - started < seconds / 2:
            _slurm.requeue()
        else:
            print("igb: hydra.launcher.time is too short for a first step; not requeuing the job")
    if status:
        sys.exit(1)


def _written(file: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    return file.stat().st_mtime_ns if file.exists() else None
