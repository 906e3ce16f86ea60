"""One run, from a config to a finished run folder."""

import atexit
import contextlib
import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from igb import _checks, _slurm, initialization
from igb._checks import InputError, one_line
from igb.compute import ALL_THREADS, Compute
from igb.data import ImageData
from igb.folder import identity, state
from igb.losses import LossSchedule
from igb.training import checkpoints
from igb.training.checkpoints import Checkpoints
from igb.training.classifier import Classifier
from igb.training.eta import Pace, ProgressBar
from igb.training.optimizers import MakeOptimizer
from igb.training.probe import Probe
from igb.training.records import Records
from igb.training.step_losses import DivergedError, Steps
from igb.training.stopping import Stop, StoppedError

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a config describes, its values checked; no image is read yet, and no weight drawn."""

    data: ImageData
    make_network: Callable[[], nn.Module]
    losses: LossSchedule
    make_optimizer: MakeOptimizer
    probe: Probe
    compute: Compute
    make_trainer: Callable[..., pl.Trainer]
    rank: int  # of this process among those of the run, one a device
    least: int  # images that a device needs of a batch


def run(config: DictConfig, folder: Path) -> str:
    """Carry out the run that `config` describes, leave its records in `folder`, and return its status.

    A folder that holds a part of the run is gone on with, from its last checkpoint; a finished one is left as it is.
    Raises InputError for what cannot be worked with, before anything is written where that can be known, and
    StoppedError if a signal stopped the run.
    """
    parts = build(config)
    identity.refuse_other(folder, config)
    if status := state.finished(folder, config):
        log.info("%s already: %s", status, folder)
        return status
    try:
        _carry_out(parts, config, folder)
    except DivergedError:
        return "diverged"
    except StoppedError as stopped:
        if parts.rank == 0 or not stopped.between_steps:
            raise
        return "interrupted"  # with the others, of which the first speaks for all
    if parts.rank == 0:
        checkpoints.settle(folder, keep=config.trainer.keep_checkpoint)
    return "completed"


def _carry_out(parts: Parts, config: DictConfig, folder: Path) -> None:
    """The part of one process, the first of which alone writes."""
    steps, first = Steps(parts.probe), parts.rank == 0
    with Stop() as stop, contextlib.ExitStack() as stack:
        records = stack.enter_context(Records(folder, parts.probe, steps, config)) if first else None
        if records:
            records.start()
        with _checks.within("data"):
            parts.data.setup()
            parts.data.deal(parts.rank, config.trainer.devices, parts.least)
        if parts.compute.threads is None:
            devices = config.trainer.devices
            share = 1 if _slurm.tasks() == devices else devices  # a task of SLURM's has cores of its own
            parts.compute.threads = max(1, min(ALL_THREADS, _slurm.cores() or ALL_THREADS) // share)
        last = checkpoints.latest(folder)
        if last:
            if records:
                records.go_on(last.records, last.step)
            parts.probe.first_step = last.step
            parts.compute.threads = (state.read(folder) or {})["threads"]
        pl.seed_everything((config.seed + parts.rank) % 2**32, verbose=False)
        parts.probe.check = stop.check
        callbacks: list[pl.Callback] = [
            steps,
            Checkpoints(folder, steps, records, stop, config.trainer.checkpoint_minutes, last),
            parts.probe,
        ]
        if records:
            pace = Pace(parts.probe)
            callbacks = [records, *callbacks, pace, *([ProgressBar(pace, steps)] if sys.stdout.isatty() else [])]
        trainer = parts.make_trainer(callbacks=callbacks)
        if trainer.strategy.launcher is not None:  # which leaves the other processes alone when this one fails
            atexit.register(trainer.strategy.launcher.kill, signal.SIGKILL)
        classifier = Classifier(parts.make_network(), parts.losses, parts.make_optimizer, parts.compute)
        with stop.deferred():
            trainer.fit(classifier, datamodule=parts.data, ckpt_path=last and last.path, weights_only=True)


def build(config: DictConfig, here: bool = True) -> Parts:
    """Check every value of a config and make its parts; InputError names the first value that is not right.

    `here` is whether the run is to be on this machine, which then has to have the devices.
    """
    # A trapped network's gradients fall below 1e-38, where a CPU is twenty times slower and no weight feels them. A
    # thread has this from the one that starts it, and making a network may already take several.
    torch.set_flush_denormal(True)
    for key in ("seed", "init_seed", "data_seed"):
        _checks.seed(key, config[key])
    data = _make(config, "data")
    loss = _make(config, "loss", without=("warmup_epochs",))
    with _checks.within("loss"):
        losses = LossSchedule(loss, config.loss.get("warmup_epochs", 0))
    with _checks.within("trainer"):
        _checks.boolean("keep_checkpoint", config.trainer.keep_checkpoint)
        _checks.number("checkpoint_minutes", config.trainer.checkpoint_minutes, at_least=0)
    make_trainer = functools.partial(_make, config, "trainer", without=("keep_checkpoint", "checkpoint_minutes"))
    rank = make_trainer(**{} if here else {"accelerator": "cpu"}).global_rank
    classes = len(data.class_names)
    least = 2 if _has_batch_norm(OmegaConf.to_yaml(config.model, resolve=True), classes) else 1
    if data.batch_size < (needed := least * config.trainer.devices):
        what = "a network with batch norm" if least > 1 else "a network"
        where = f" on each of {config.trainer.devices} devices" if config.trainer.devices > 1 else ""
        raise InputError(f"data.batch_size={data.batch_size} must be at least {needed} for {what}{where}")
    make_network = functools.partial(_make, config, "model", num_classes=classes)
    initialize = functools.partial(initialization.build, make_network, _make(config, "init"), config.init_seed)
    return Parts(
        data,
        initialize,
        losses,
        _make(config, "optimizer"),
        _make(config, "probe"),
        _make(config, "compute"),
        make_trainer,
        rank,
        least,
    )


def _make(config: DictConfig, group: str, *, without: Sequence[str] = (), **arguments: Any) -> Any:
    """Instantiate a config group, less the keys that are not its constructor's; errors name the group."""
    try:
        if OmegaConf.select(config, f"{group}._target_") is None:
            raise InputError(f"{group}._target_ must be given: what to make, as in igb's own config of the group")
        options = config[group].copy()  # which keeps its place in the config, for interpolations
        with open_dict(options):
            for key in without:
                options.pop(key, None)
        return instantiate(options, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise InputError(f"{group}.{cause}") from error
        raise InputError(f"{group}: {type(cause).__name__}: {one_line(cause)}") from error
    except OmegaConfBaseException as error:  # a value that a user's config leaves to be given
        raise InputError(f"{group}: {one_line(error)}") from error


@functools.cache
def _has_batch_norm(model: str, num_classes: int) -> bool:
    """Whether the network of a model config (YAML) has batch norm; kept, as the jobs of a sweep mostly share it."""
    network = _make(OmegaConf.create({"model": OmegaConf.create(model)}), "model", num_classes=num_classes)
    return any(isinstance(module, _BatchNorm) for module in network.modules())
