"""The checkpoints of a run: written atomically, so that one is always intact, and read to resume.

How a killed run resumes:

- The folder is found again: a sweep derives its name from the overrides (`sweeper.run_names`), and a requeued SLURM job
  has it among its arguments (`hydra.run.dir`).
- `identity.refuse_other` checks that the folder holds a run of the same identity. A completed run whose limits have not
  grown returns early (`state.final_status`). `experiment.carry_out` checks that the images are the same.
- `latest` finds the last intact checkpoint, which says how many bytes of the tables and how many probes were recorded
  by then; `Records` cuts the files back to that and draws TensorBoard's again. Without an intact checkpoint the run
  starts from scratch.
- Lightning restores network, optimizer and step; `Classifier.on_load_checkpoint` patches old checkpoints before that.
  `Checkpoints` restores the random states, and `carry_out` the number of threads.
- `ImageData.train_dataloader` sets the position within the epoch (`EpochSampler.start_at`).
- The first thing to happen is the probe after that step, if one is due.
"""

import logging
import pickle
import random
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from igb._checks import one_line
from igb._files import replacing, sync
from igb.folder.schema import checkpoint_path, previous_checkpoint_path
from igb.schedule import Schedule
from igb.training.records import Records
from igb.training.step_losses import StepLosses
from igb.training.stopping import Stop, StoppedError
from igb.training.stopwatch import Stopwatch

DAMAGE = (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint on disk: its file, the steps done, what was recorded until then, and each process's random state."""

    path: Path
    step: int
    records: dict[str, Any]
    random: list[dict[str, Any]]


class Checkpoints(pl.Callback):
    """Writes a checkpoint every few minutes, at the end of every epoch and of the run, and when the run is to stop.

    It comes between step losses and probe in the trainer's list. A checkpoint thus holds the network after a step and
    before its probe; a run that resumes from it starts with that probe, if one is due.

    Args:
        folder: the run's folder.
        schedule: the run's step schedule.
        stopwatch: the run's stopwatch.
        step_losses: the losses of the run's steps, which are read before a checkpoint is written.
        records: the run's records, whose state is part of a checkpoint; None in every process but the first.
        stop: says whether the run is to stop.
        minutes: minutes between checkpoints within an epoch.
        last: the checkpoint that this run resumes from, if it does.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        stopwatch: Stopwatch,
        step_losses: StepLosses,
        records: Records | None,
        stop: Stop,
        minutes: float,
        last: Checkpoint | None,
    ) -> None:
        self.schedule, self.stopwatch, self.step_losses, self.records = schedule, stopwatch, step_losses, records
        self.stop, self.minutes, self._last = stop, minutes, last
        self._path, self._previous = checkpoint_path(folder), previous_checkpoint_path(folder)
        self._saved: int | None = None  # the step of the newest checkpoint; None before training

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the processes of a run stop together."""
        if trainer.world_size > 1:
            self.stop.synchronise()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random states, and start the clock."""
        self.stop.listen()
        self._saved = self._last.step if self._last else 0
        if self._last:
            _set_random_state(self._last.random[trainer.global_rank], pl_module.device)
        self._due = time.monotonic() + 60 * self.minutes

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write a checkpoint if one is due; raise StoppedError if the run is to stop."""
        is_due = int(time.monotonic() >= self._due)
        if self.schedule.ends_epoch(trainer.global_step) or self.stop.all_reduce_max(is_due):
            self._save(trainer)
        self.stop.check()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write a checkpoint if the run was stopped between two steps, or within the probe after one."""
        if (
            isinstance(exception, StoppedError)
            and exception.between_steps
            and self._saved not in (None, trainer.global_step)
        ):
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not keep."""
        random: list[Any] = [_random_state(pl_module.device)] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(random, random[0])
        checkpoint["igb"] = {"records": self.records and self.records.records_state(), "random": random}

    def _save(self, trainer: pl.Trainer) -> None:
        self.step_losses.read(trainer)
        with self.stopwatch.timed("checkpoints"):
            if self.records:
                self._path.parent.mkdir(exist_ok=True)
                with replacing(self._path) as partial:
                    trainer.save_checkpoint(partial)
                    sync(partial)
                    if self._path.exists():
                        self._path.replace(self._previous)
            else:  # Lightning has all processes call it, of which the first writes
                trainer.save_checkpoint(self._path)
        self._saved = trainer.global_step
        self._due = time.monotonic() + 60 * self.minutes


def latest(folder: Path) -> Checkpoint | None:
    """The last intact checkpoint of a run, or None; a damaged one is logged."""
    paths = [path for path in (checkpoint_path(folder), previous_checkpoint_path(folder)) if path.exists()]
    for path in paths:
        try:
            state = read_checkpoint(path)
            return Checkpoint(path, state["global_step"], **state["igb"])
        except DAMAGE as error:
            then = "no intact checkpoint left, starting from scratch"
            if path != paths[-1]:
                then = f"falling back to {paths[-1].name}"
            log.warning("%s is damaged (%s); %s", path, one_line(error), then)
    return None


def prune(folder: Path, keep: bool) -> None:
    """Delete the checkpoints that a completed run does not need: all, or all but the last."""
    for file in (previous_checkpoint_path(folder), *([] if keep else [checkpoint_path(folder)])):
        file.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, its checksums verified, which torch does not do; else an error of DAMAGE."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _random_state(device: torch.device) -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (what others may draw from)
    return {
        "torch": torch.get_rng_state(),
        # Of this process's device; to ask on another would make a CUDA context there.
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
