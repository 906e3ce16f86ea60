"""The config group `trainer`: a Lightning trainer that leaves evaluating and recording to igb's callbacks."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from igb import _checks
from igb._checks import InputError, one_line
from igb._environment import drop_stale_variables, number, slurm_tasks

log = logging.getLogger(__name__)


def trainer(
    max_epochs: int,
    max_steps: int | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A Lightning trainer that leaves evaluating and recording to the callbacks.

    Args:
        max_epochs: 0 or more; 0 only measures the initial network.
        max_steps: optimizer steps after which to stop even within an epoch; None for no such limit.
        accelerator: `auto` or what Lightning knows: `cpu`, `gpu`, `mps`, ...
        devices: the number of devices of each machine that share the work, each with a process of its own.
        num_nodes: the number of machines; for several, SLURM or torchrun starts the processes.
        strategy: how they share it: `ddp`, distributed data parallel, which is also what `auto` means for several.
        callbacks: called in this order.
    """
    _checks.integer("max_epochs", max_epochs, at_least=0)
    if max_steps is not None:
        _checks.integer("max_steps", max_steps, at_least=0)
    processes = _checks.integer("devices", devices, at_least=1) * _checks.integer("num_nodes", num_nodes, at_least=1)
    _checks.choice("strategy", strategy, ("auto", "ddp"))
    _quiet_lightning()
    drop_stale_variables(processes)
    try:
        made = pl.Trainer(
            max_epochs=max_epochs,
            max_steps=-1 if max_steps is None else max_steps,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if processes > 1 else "auto",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            limit_val_batches=0,
            use_distributed_sampler=False,
            plugins=[StreamingCheckpointIO(), _environment(processes)],
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(f"accelerator={accelerator} cannot be used: {one_line(error)}") from error
    if made.world_size != processes:
        raise InputError(f"devices={devices} must equal the number of processes ({made.world_size})")
    return made


def _environment(processes: int) -> ClusterEnvironment:
    """Who starts the processes of a run: SLURM if `srun` made a task for each device, else torchrun or this process."""
    if processes > 1 and slurm_tasks() == processes:
        return SLURMEnvironment(auto_requeue=False)  # which would write its own checkpoint within the signal handler
    if processes > 1 and number("LOCAL_RANK") == 0:  # said once, for if the variables are stale the others never come
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        log.info("waiting at MASTER_ADDR:MASTER_PORT=%s for all WORLD_SIZE=%d processes", where, processes)
    return LightningEnvironment()


def _quiet_lightning() -> None:
    """Silence Lightning about itself, and about choices that igb makes and not the user."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    modules = r"(pytorch_lightning|lightning_fabric|torchmetrics)\..*"
    for category in (DeprecationWarning, FutureWarning, PossibleUserWarning):
        warnings.filterwarnings("ignore", category=category, module=modules)


class StreamingCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints straight to their file; Lightning goes through memory and the folder of temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; OSError if the disk is full."""
        try:
            with open(path, "wb") as stream:
                torch.save(checkpoint, stream)
        except RuntimeError as error:  # of torch, which found the file shorter than it should be
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
