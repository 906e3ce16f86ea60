"""The checkpoints of a run: written so that one is always whole, and read to go on from or for the trained network."""

import json
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
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from igb._checks import InputError, one_line
from igb._files import replacing, sync
from igb._paths import import_from
from igb.folder.schema import checkpoint_path
from igb.training.records import Records
from igb.training.step_losses import Steps
from igb.training.stopping import Stop, StoppedError

NETWORK = "network."  # the prefix of its weights in the checkpoint of a Classifier

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint on disk: its file, the steps done, what was recorded until then, and each process's random state."""

    path: Path
    step: int
    records: dict[str, Any]
    random: list[dict[str, Any]]


class Checkpoints(pl.Callback):
    """Writes a checkpoint every few minutes, at the end of every epoch and of the run, and when the run is to stop.

    It stands between steps and probe in the trainer's list, so that a checkpoint is of the network after a step and
    its loss, before its probe; a run that goes on from it starts with that probe, if one is due.

    Args:
        folder: of the run.
        steps: of the same run, whose losses are read before a checkpoint is written.
        records: whose state is part of a checkpoint; None in a process that writes nothing, as another does.
        stop: says whether the run is to stop.
        minutes: between checkpoints within an epoch.
        last: the checkpoint that this run goes on from, if it does.
    """

    def __init__(
        self, folder: Path, steps: Steps, records: Records | None, stop: Stop, minutes: float, last: Checkpoint | None
    ) -> None:
        self.steps, self.records, self.stop, self.minutes, self._last = steps, records, stop, minutes, last
        self._path = checkpoint_path(folder)
        self._saved: int | None = None  # the step of the newest checkpoint; None before training

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the processes of a run stop together."""
        if trainer.world_size > 1:
            self.stop.together()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the random states, and start the clock."""
        self.stop.listen()
        self._saved = self._last.step if self._last else 0
        if self._last:
            _set_random_state(self._last.random[trainer.global_rank])
        self._due = time.monotonic() + 60 * self.minutes

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write a checkpoint if one is due; leave if the run is to stop."""
        step, probe = trainer.global_step, self.steps.probe
        ending = step == probe.total_steps or step % probe.steps_per_epoch == 0
        if ending or self.stop.agreed(int(time.monotonic() >= self._due)):
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
        random: list[Any] = [_random_state()] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(random, random[0])
        checkpoint["igb"] = {"records": self.records and self.records.state(), "random": random}

    def _save(self, trainer: pl.Trainer) -> None:
        started = time.monotonic()
        self.steps.read(trainer)
        if self.records:
            self.records.settle()
            self._path.parent.mkdir(exist_ok=True)
            with replacing(self._path) as partial:
                trainer.save_checkpoint(partial)
                sync(partial)
                if self._path.exists():
                    self._path.replace(_previous(self._path))
            self.records.add_checkpoint_seconds(time.monotonic() - started)
        else:  # Lightning has all processes call it, of which the first writes
            trainer.save_checkpoint(self._path)
        self._saved = trainer.global_step
        self._due = time.monotonic() + 60 * self.minutes
        self.steps.start_clock()  # which would take the writing for training


def latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run that is whole; None if there is none. Where the last one is damaged, say so."""
    path = checkpoint_path(folder)
    found = [candidate for candidate in (path, _previous(path)) if candidate.exists()]
    for candidate in found:
        try:
            state = _read(candidate)
            return Checkpoint(candidate, state["global_step"], **state["igb"])
        except (
            OSError,
            RuntimeError,
            KeyError,
            TypeError,
            EOFError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            log.warning("%s is damaged (%s); the run goes on from what is before it", candidate, one_line(error))
    return None


def settle(folder: Path, keep: bool) -> None:
    """Leave a completed run's folder with its last checkpoint alone, or with none."""
    path = checkpoint_path(folder)
    for file in (_previous(path), *([] if keep else [path])):
        file.unlink(missing_ok=True)


def load_network(folder: str | Path) -> nn.Module:
    """The network of a run at its last checkpoint, on the CPU and in evaluation mode.

    Raises InputError if the folder holds no run, no checkpoint, or one that does not fit.
    """
    folder = Path(folder)
    config_file, run_file = folder / ".hydra" / "config.yaml", folder / "run.json"
    checkpoint = checkpoint_path(folder)
    if not config_file.exists() or not run_file.exists():
        raise InputError(f"{folder} holds no run")
    if not checkpoint.exists():
        raise InputError(f"{folder} has no checkpoints/last.ckpt; the run kept none or has not come to its first yet")
    if (hydra_file := folder / ".hydra" / "hydra.yaml").exists():
        import_from(OmegaConf.load(hydra_file).hydra.runtime)
    config = OmegaConf.load(config_file)
    classes = len(json.loads(run_file.read_text())["class_names"])
    network = instantiate(config.model, num_classes=classes, _convert_="all")
    try:
        state = _read(checkpoint)["state_dict"]
        weights = {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
        network.load_state_dict(weights)
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"{checkpoint} is damaged or of another network ({one_line(error)})") from error
    return network.eval()


def _previous(path: Path) -> Path:
    return path.with_name("previous.ckpt")


def _read(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, its checksums verified, which torch does not do."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (what others may draw from)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,  # of this process's device
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
