"""The LightningModule that trains a network, its optimizer, and the Lightning trainer that runs it."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

from igb import _checks
from igb._checks import InputError, one_line
from igb.compute import Compute, channels_last
from igb.losses import LossSchedule

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Classifier(pl.LightningModule):
    """A network trained with the losses of a schedule.

    Args:
        network: maps images [N, 1, H, W] to logits [N, C].
        losses: the loss of every epoch.
        make_optimizer: called with the network's parameters.
        compute: how the network's arithmetic is done.
    """

    def __init__(
        self, network: nn.Module, losses: LossSchedule, make_optimizer: MakeOptimizer, compute: Compute
    ) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.losses = losses
        self.compute = compute
        self._make_optimizer = make_optimizer

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of scaled images [N, 1, H, W]."""
        with self.compute.applied(images.device):
            logits: Tensor = self.network(images)
        return logits.to(images.dtype)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch of scaled images [N, 1, H, W] and labels [N]."""
        images, labels = batch
        loss: Tensor = self.losses.at(self.current_epoch)(self(images), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters of the network."""
        return self._make_optimizer(self.network.parameters())


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> MakeOptimizer:
    """Stochastic gradient descent as `torch.optim.SGD` does it; the three values are finite and at least 0."""
    options: dict[str, Any] = {
        "lr": _checks.number("lr", lr, at_least=0),
        "momentum": _checks.number("momentum", momentum, at_least=0),
        "weight_decay": _checks.number("weight_decay", weight_decay, at_least=0),
    }
    return lambda parameters: torch.optim.SGD(parameters, **options)


def trainer(
    max_epochs: int,
    max_steps: int | None = None,
    accelerator: str = "auto",
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A Lightning trainer for one device that leaves evaluating and recording to the callbacks.

    Args:
        max_epochs: 0 or more; 0 only measures the initial network.
        max_steps: optimizer steps after which to stop even within an epoch; None for no such limit.
        accelerator: `auto` or what Lightning knows: `cpu`, `gpu`, `mps`, ...
        callbacks: called in this order.
    """
    _checks.integer("max_epochs", max_epochs, at_least=0)
    if max_steps is not None:
        _checks.integer("max_steps", max_steps, at_least=0)
    _quiet_lightning()
    try:
        return pl.Trainer(
            max_epochs=max_epochs,
            max_steps=-1 if max_steps is None else max_steps,
            accelerator=accelerator,
            devices=1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            limit_val_batches=0,
            use_distributed_sampler=False,
            # Lightning would write its own checkpoint within the signal handler.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"accelerator={accelerator} cannot be used: {one_line(error)}") from error


def _quiet_lightning() -> None:
    """Silence what Lightning says about itself, and about choices that are igb's and not the user's."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    modules = r"(pytorch_lightning|lightning_fabric|torchmetrics)\..*"
    for category in (DeprecationWarning, FutureWarning, PossibleUserWarning):
        warnings.filterwarnings("ignore", category=category, module=modules)
