"""Environment variables that describe a group of processes, and the removal of stale ones."""

import importlib.util
import os

# Set for each process of a run by torchrun, and by Lightning in the processes that it starts.
GROUP = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RANKS = ("RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "JSM_NAMESPACE_RANK")
# Set by SLURM for each task that `srun` starts.
TASK = (
    "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID",
)  # fmt: skip


def number(name: str) -> int | None:
    """A variable that is a whole number of at least 0; None if it is unset or any other text."""
    value = os.environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() else None


def slurm_tasks() -> int:
    """The number of tasks that `srun` started with this one; 0 if it did not, or if a variable is no number."""
    return (number("SLURM_STEP_NUM_TASKS") or 0) if all(number(name) is not None for name in TASK) else 0


def is_started_with(processes: int) -> bool:
    """Whether this process is one of so many, which SLURM or torchrun started."""
    return slurm_tasks() == processes or number("WORLD_SIZE") == processes


def drop_stale_variables(processes: int | None = None) -> None:
    """Remove the variables of a group of processes that this one is not part of; libraries would wait for the others.

    It is part of one if its launcher set all of `GROUP`, for as many processes as the run has where that is known. If
    SLURM started a task for each, its own variables are used instead.
    """
    local, size, port = number("LOCAL_RANK"), number("WORLD_SIZE"), number("MASTER_PORT")
    is_member = local is not None and size is not None and local < size and port and os.environ.get("MASTER_ADDR")
    use_slurm = processes is not None and 1 < processes == slurm_tasks()
    if not is_member or use_slurm or (processes is not None and (processes == 1 or size != processes)):
        for name in (*GROUP, *RANKS):
            os.environ.pop(name, None)
    drop_malformed_variables()


def drop_malformed_variables() -> None:
    """Remove the variables that libraries would fail on when they are imported: no numbers, or a missing backend."""
    for name in ("LOCAL_RANK", *RANKS, *TASK, "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        if name in os.environ and number(name) is None:
            del os.environ[name]
    backend = os.environ.get("MPLBACKEND", "")
    if backend.startswith("module://") and not _is_there(backend.removeprefix("module://")):
        del os.environ["MPLBACKEND"]  # of a notebook that started this process, in an environment of its own


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
