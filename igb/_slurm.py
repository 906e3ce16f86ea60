"""What igb asks of SLURM: which jobs are alive, and to requeue this one."""

import logging
import os
import re
import subprocess

from igb._environment import number

PASSING_REASONS = {
    "None",
    "Priority",
    "Resources",
    "JobArrayTaskLimit",
    "BeginTime",
    "Cleaning",
}  # reasons that pass in time

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip

log = logging.getLogger(__name__)


class Job:
    """A job, or a task of a job array, as `squeue` shows it: `id` is `12` or `12_3`, `comment` its --comment."""

    def __init__(self, line: str) -> None:
        self.id, self.state, self.reason, self.comment = line.split("|", 3)

    @property
    def state_text(self) -> str:
        """Its state in words, and why it is pending unless it only waits for its turn."""
        is_stuck = self.state == "PENDING" and self.reason not in PASSING_REASONS
        return f"{self.state.lower()} ({self.reason})" if is_stuck else self.state.lower()

    @property
    def index(self) -> int:
        """Its index in its job array; 0 for a job outside an array."""
        return int(self.id.partition("_")[2] or 0)


def own_job() -> str | None:
    """The id of the job that submitit started this process in; None if there is none."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    array, task, job = (number(f"SLURM_{name}") for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "JOB_ID"))
    if array is not None and task is not None:
        return f"{array}_{task}"
    return None if job is None else str(job)


def cores() -> int | None:
    """The cores that SLURM gave a task; None if it does not say."""
    return number("SLURM_CPUS_PER_TASK") or None


def queue() -> list[Job]:
    """The user's jobs that have not ended; OSError or subprocess.SubprocessError if SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format", "%i|%T|%r|%k"]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60)
    # Any other line is a message from SLURM or from a wrapper around it.
    jobs = [Job(line) for line in answer.stdout.splitlines() if re.match(r"\d+(_\d+)?\|[^|]+\|[^|]*\|", line)]
    # squeue still lists an ended job for some minutes; a requeued one is PENDING again.
    return [job for job in jobs if job.state not in ENDED]


def queued() -> set[str]:
    """The ids of the jobs of `queue`; none if SLURM does not answer."""
    try:
        return {job.id for job in queue()}
    except (OSError, subprocess.SubprocessError):
        return set()


def requeue() -> None:
    """Requeue the job that this process runs in, unless it was cancelled."""
    job = own_job()
    assert job is not None
    try:
        subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=60,
        )
        log.info("job %s is requeued", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.error("job %s could not be requeued (%s); the same igb command resumes the run", job, error_text(error))


def error_text(error: OSError | subprocess.SubprocessError) -> str:
    """The error message of a SLURM command that failed, on one line."""
    return " ".join(str(getattr(error, "stderr", None) or error).split())
