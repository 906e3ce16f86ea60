"""What igb asks of SLURM: which jobs are alive, and to queue this one again."""

import logging
import os
import re
import subprocess

from igb._environment import number

TURN = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning"}  # reasons that pass

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip

log = logging.getLogger(__name__)


class Job:
    """A job, or a task of a job array, as `squeue` shows it: `id` is `12` or `12_3`, `comment` what it was given."""

    def __init__(self, line: str) -> None:
        self.id, self.state, self.reason, self.comment = line.split("|", 3)

    @property
    def standing(self) -> str:
        """Its state, and why it waits, where that is not its turn alone."""
        waits = self.state == "PENDING" and self.reason not in TURN
        return f"{self.state.lower()} ({self.reason})" if waits else self.state.lower()

    @property
    def index(self) -> int:
        """Its place in its array; 0 for a job that is none."""
        return int(self.id.partition("_")[2] or 0)


def own_job() -> str | None:
    """The id of the job that submitit started this process in, if it did."""
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
    # A line that is not of this form is a message of SLURM's or of a wrapper around it.
    jobs = [Job(line) for line in answer.stdout.splitlines() if re.match(r"\d+(_\d+)?\|[^|]+\|[^|]*\|", line)]
    # A job that is done with stays for some minutes under these; a requeued one is PENDING again.
    return [job for job in jobs if job.state not in ENDED]


def queued() -> set[str]:
    """The ids of those jobs; none where SLURM does not answer."""
    try:
        return {job.id for job in queue()}
    except (OSError, subprocess.SubprocessError):
        return set()


def requeue() -> None:
    """Queue the job that this process is in once more, unless it was cancelled."""
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
        log.info("job %s is queued again", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.error("job %s could not be queued again (%s); the same igb command resumes the run", job, said(error))


def said(error: OSError | subprocess.SubprocessError) -> str:
    """What a command of SLURM that failed had to say."""
    return " ".join(str(getattr(error, "stderr", None) or error).split())
