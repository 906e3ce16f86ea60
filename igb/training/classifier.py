"""The LightningModule that trains a network."""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from igb._checks import InputError
from igb.compute import Compute, channels_last
from igb.data import Batch
from igb.losses import LossSchedule
from igb.training.optimizers import MakeOptimizer


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
        if not isinstance(logits, Tensor):
            raise InputError(f"model gives a {type(logits).__name__}; it must give logits [N, C]")
        return logits.to(images.dtype)

    def setup(self, stage: str) -> None:
        """Set the process up, after Lightning has; on several GPUs batch norm is over the batch, not a share of it."""
        device = self.trainer.strategy.root_device
        self.compute.start(device)
        if self.trainer.world_size > 1 and device.type == "cuda":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of a batch; of a share of one, scaled so that the mean over all processes is the batch's."""
        images, labels, size = batch
        loss: Tensor = self.losses.at(self.current_epoch)(self(images), labels)
        return loss * (self.trainer.world_size * len(labels) / size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters of the network."""
        return self._make_optimizer(self.network.parameters())
