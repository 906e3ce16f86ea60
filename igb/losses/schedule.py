"""The loss of every epoch: cross-entropy as a warm-up (not of the learning rate), then the loss of the config."""

from torch import nn

from igb import _checks
from igb.losses.true_class import CrossEntropy


class LossSchedule(nn.Module):
    """Cross-entropy for the first `warmup_epochs` epochs (the paper's d), then `loss`."""

    def __init__(self, loss: nn.Module, warmup_epochs: int = 0) -> None:
        super().__init__()
        self.warmup_epochs = _checks.integer("warmup_epochs", warmup_epochs, at_least=0)
        self.loss = loss
        self.warmup = CrossEntropy()

    def at(self, epoch: int) -> nn.Module:
        """The loss that trains in `epoch`, counted from 0."""
        return self.warmup if epoch < self.warmup_epochs else self.loss

    def phases(self) -> list[tuple[int, nn.Module]]:
        """The first epoch of every loss of the schedule, in order."""
        warmup = [(0, self.warmup)] if self.warmup_epochs else []
        return [*warmup, (self.warmup_epochs, self.loss)]
