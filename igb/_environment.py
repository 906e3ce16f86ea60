"""What the environment of a process says of processes that belong together, and what is left of that from others."""

import os

# What torchrun, and Lightning in the processes that it starts, give to each process of a run.
GROUP = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RANKS = ("RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "JSM_NAMESPACE_RANK")
# What SLURM gives to each task that `srun` starts.
TASK = (
    "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID",
)  # fmt: skip


def number(name: str) -> int | None:
    """A variable that is a whole number from 0; None for any other text, and where there is none."""
    value = os.environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() else None


def slurm_tasks() -> int:
    """The tasks that `srun` started this process as one of; 0 if it did not, or if what it says is not whole."""
    return (number("SLURM_STEP_NUM_TASKS") or 0) if all(number(name) is not None for name in TASK) else 0


def drop_stale_variables(devices: int | None = None) -> None:
    """Remove the variables of a group of processes that this one is not part of; libraries would wait for the others.

    It is part of one if whoever started it gave a number for all of `GROUP`, for a run on as many `devices`, where they
    are known by now. SLURM's own variables count where `slurm_tasks` says so.
    """
    local, size, port = number("LOCAL_RANK"), number("WORLD_SIZE"), number("MASTER_PORT")
    whole = local is not None and size is not None and local < size and port and os.environ.get("MASTER_ADDR")
    of_slurm = devices is not None and 1 < devices == slurm_tasks()
    if not whole or of_slurm or (devices is not None and (devices == 1 or size != devices)):
        for name in (*GROUP, *RANKS):
            os.environ.pop(name, None)
    for name in (*RANKS, *TASK, "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        if name in os.environ and number(name) is None:
            del os.environ[name]
