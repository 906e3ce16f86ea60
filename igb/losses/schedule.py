"""The loss of every epoch: cross-entropy as a warm-up (not of the learning rate), then the loss of the config."""

from torch import nn

from igb import _checks
from igb._checks import InputError
from igb.losses.all_classes import SumLoss
from igb.losses.base import ProbabilityLoss, check
from igb.losses.true_class import CrossEntropy


class LossSchedule(nn.Module):
    """Cross-entropy for the first `warmup_epochs` epochs (the paper's d), then `loss`.

    In `ramp_epochs` epochs between them the weight goes linearly from that of cross-entropy to that of the loss: in the
    i-th of r it is that of (1 - i/(r+1)) cross-entropy + i/(r+1) loss. InputError if the loss is none of igb's then.

    >>> from igb.losses import PiecewiseZeroLoss
    >>> [str(loss) for _, loss in LossSchedule(PiecewiseZeroLoss(), warmup_epochs=2).phases()]
    ['CrossEntropy()', 'PiecewiseZeroLoss(cutoff=0.1)']
    >>> LossSchedule(PiecewiseZeroLoss(), warmup_epochs=2, ramp_epochs=1).at(2)  # halfway between the two
    0.5 CrossEntropy() + 0.5 PiecewiseZeroLoss(cutoff=0.1)
    """

    def __init__(self, loss: nn.Module, warmup_epochs: int = 0, ramp_epochs: int = 0) -> None:
        super().__init__()
        self.warmup_epochs = _checks.integer("warmup_epochs", warmup_epochs, at_least=0)
        self.ramp_epochs = _checks.integer("ramp_epochs", ramp_epochs, at_least=0)
        check("_target_", loss)
        self.loss = loss
        self.warmup = CrossEntropy()
        if ramp_epochs and not isinstance(loss, ProbabilityLoss):
            raise InputError(f"ramp_epochs={ramp_epochs} needs a loss that is an igb.losses.ProbabilityLoss")
        # Not registered: the loss and its parameters have one name in checkpoints.
        self._ramp = tuple(self._mixture(number / (ramp_epochs + 1)) for number in range(1, ramp_epochs + 1))

    def at(self, epoch: int) -> nn.Module:
        """The loss that trains in `epoch`, counted from 0."""
        return next(loss for first, loss in reversed(self.phases()) if first <= epoch)

    def phases(self) -> list[tuple[int, nn.Module]]:
        """The first epoch of every loss of the schedule, in order."""
        warmup = [(0, self.warmup)] if self.warmup_epochs else []
        losses = [*self._ramp, self.loss]
        return [*warmup, *((self.warmup_epochs + number, loss) for number, loss in enumerate(losses))]

    def _mixture(self, part: float) -> SumLoss:
        assert isinstance(self.loss, ProbabilityLoss)
        return SumLoss(self.warmup, self.loss, 1 - part, part)
