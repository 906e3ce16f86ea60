"""The LightningModule that trains a network."""

import functools
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from igb._checks import InputError
from igb.compute import Compute, channels_last
from igb.data import Batch
from igb.losses import LossSchedule
from igb.training.optimizers import MakeOptimizer
from igb.training.rates import RateSchedule, constant
from igb.training.step import GraphedStep, Step

Loss = Callable[[Tensor, Tensor], Tensor]


class Classifier(pl.LightningModule):
    """A network trained with the losses of a schedule.

    Args:
        network: maps images [N, I, H, W] to logits [N, C].
        loss_schedule: the loss of every epoch.
        make_optimizer: called with the parameters of the network, and of the losses where they have some.
        compute: how the network's arithmetic is done.
        rates: the factor of the learning rate over the epochs.
        gradient_clip: the largest norm of the gradient, if it is to be clipped.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_schedule: LossSchedule,
        make_optimizer: MakeOptimizer,
        compute: Compute,
        rates: RateSchedule | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # the step is ours
        self.network = channels_last(network)
        self.losses = loss_schedule  # the name of its parameters in checkpoints
        self.compute = compute
        self._make_optimizer, self._rates, self._clip = make_optimizer, rates or constant(), gradient_clip
        self._training_losses: dict[nn.Module, Loss] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of scaled images [N, I, H, W]."""
        with self.compute.applied(images.device):
            logits: Tensor = self.network(images)
        if not isinstance(logits, Tensor):
            raise InputError(f"model returns a {type(logits).__name__}; it must return logits [N, C]")
        return logits.to(images.dtype)

    def setup(self, stage: str) -> None:
        """Set the process up, after Lightning has; on several GPUs batch norm is over the batch, not a shard of it."""
        device = self.trainer.strategy.root_device
        self.compute.set_up(device)
        if self.trainer.world_size > 1 and device.type == "cuda":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)

    def on_fit_start(self) -> None:
        """Make the step. Several processes add up their gradients in Lightning's backward pass."""
        counter: Any = self.optimizers()  # Lightning's wrapper of the optimizer
        self._counter = counter
        alone = self.trainer.world_size == 1
        step = Step(self, counter.optimizer, Tensor.backward if alone else self.manual_backward, self._clip)
        self._step = GraphedStep(step) if alone and self.compute.is_recorded(self.device) else step

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Train on a batch; return the loss of this shard, weighted so that the mean over processes is the batch's."""
        images, labels, size = batch
        weight = self.trainer.world_size * len(labels) / size
        factor = self._rates((self.trainer.global_step + 1) / self.trainer.num_training_batches)
        for group, rate in zip(self._counter.optimizer.param_groups, self._initial_rates, strict=True):
            group["lr"] = rate * factor
        self._counter._on_before_step()  # by which Lightning counts `global_step`
        try:
            loss = self._step(images, labels, self._loss(), weight)
        except torch.OutOfMemoryError as error:
            raise InputError(f"data.batch_size={size} does not fit the memory of {self.device}; lower it") from error
        self._counter._on_after_step()
        return loss

    def _loss(self) -> Loss:
        """The loss of the epoch, the same object while it is the same loss."""
        loss = self.losses.at(self.current_epoch)
        return self._training_losses.setdefault(loss, functools.partial(self._with_all_parameters, loss))

    def _with_all_parameters(self, of_epoch: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss; the parameters of the others get gradients of zero, which several processes need."""
        loss: Tensor = of_epoch(logits, labels)
        for parameter in self.losses.parameters():
            loss = loss + 0 * parameter.sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters of the network and the losses."""
        optimizer = self._make_optimizer([*self.network.parameters(), *self.losses.parameters()])
        self._initial_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say where the run is: checkpoints of schema 1 have its steps elsewhere, those of resumed runs too few epochs.

        Lightning begins no epoch anew that it resumes at the end of one, and would repeat an epoch the next time.
        """
        loop, step = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
        steps = loop["epoch_loop.manual_optimization.optim_step_progress"]
        if steps["total"]["completed"] != step:
            steps["total"] = dict.fromkeys(steps["total"], step)
        trainer: Any = self.trainer  # which does not say that it has a datamodule
        begun = -(-step // trainer.datamodule.steps_per_epoch)
        for counts in loop["epoch_progress"].values():
            counts.update(ready=begun, started=begun, processed=begun - 1, completed=begun - 1)
