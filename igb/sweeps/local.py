"""The launcher `local`: every job of a sweep in a process of its own, on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from hydra.core.utils import JobReturn

from igb import _checks
from igb._checks import one_line_exit
from igb.folder.lock import in_use
from igb.folder.schema import log_path
from igb.sweeps.jobs import Job, ProcessLauncher

LOOK_EVERY = 0.2  # seconds, at processes


class LocalLauncher(ProcessLauncher):
    """Runs each job of a sweep in its own process on this machine; one that is killed fails alone.

    Args:
        n_jobs: the number of jobs that run at the same time; each computes with cores / n_jobs threads, unless
            `compute.threads` is set, and on the CUDA card that the fewest jobs are on.
    """

    def __init__(self, n_jobs: int) -> None:
        with one_line_exit():
            self.n_jobs = _checks.integer("hydra.launcher.n_jobs", n_jobs, at_least=1)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs. Ctrl-C and SIGTERM stop the running ones and start no others."""
        jobs = self.jobs(job_overrides, initial_job_idx)
        waiting = list(enumerate(jobs))
        visible = visible_cards()
        running: dict[int, subprocess.Popen[bytes]] = {}
        cards: dict[int, str | None] = {}
        returns: dict[int, JobReturn] = {}
        before = signal.signal(signal.SIGTERM, _exit)
        try:
            while waiting or running:
                for entry in list(waiting):
                    if len(running) == self.n_jobs:
                        break
                    number, job = entry
                    if not in_use(job.folder):  # else a process of an earlier sweep still runs there: wait for it
                        waiting.remove(entry)
                        cards[number] = (
                            least_used(visible, [cards[other] for other in running]) if on_gpu(job) else None
                        )
                        running[number] = self._start(job, cards[number])
                        print(f"igb: started {job.label}", flush=True)
                for number in [number for number, process in running.items() if process.poll() is not None]:
                    returns[number] = jobs[number].ended(_error(running.pop(number).returncode))
                    print(f"igb: ended {jobs[number].label}", flush=True)
                time.sleep(LOOK_EVERY)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
            signal.signal(signal.SIGTERM, before)
        return [returns[number] for number in range(len(jobs))]

    def _start(self, job: Job, card: str | None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // self.n_jobs))}
        if card is not None:
            environment["CUDA_VISIBLE_DEVICES"] = card
        with open(log_path(job.folder), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "igb", *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the sweep, which then tells its jobs once
                env=environment,
            )


def _error(status: int) -> Exception | None:
    """The error that an exit status tells of, if the run could not record it."""
    return RuntimeError(f"killed by {signal.Signals(-status).name}") if status < 0 else None


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def on_gpu(job: Job) -> bool:
    """Whether a job takes a CUDA card if there is one."""
    return str(job.config.trainer.accelerator) in ("auto", "gpu", "cuda")


def visible_cards() -> list[str]:
    """The CUDA cards that this process may use, by what CUDA_VISIBLE_DEVICES calls each."""
    import torch  # which the check of the jobs has imported

    count = torch.cuda.device_count()  # without a CUDA context, and without names that no card has
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if given is None else [name.strip() for name in given.split(",")]
    if count and names[0].startswith("MIG-"):  # of such parts of a card CUDA counts one in each process
        return [name for name in names if name.startswith("MIG-")]
    return names[:count]


def least_used(cards: Sequence[str], used: Sequence[str | None]) -> str | None:
    """The card, or the first of the cards, that the fewest jobs use; None if there is none."""
    return min(cards, key=used.count, default=None)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
