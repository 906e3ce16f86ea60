"""A loss as a function of p_y, the probability of the true class: its value and gradient at each p_y."""

import torch
from torch import Tensor

from igb.losses.true_class import TrueClassLoss


def loss_curve(loss: TrueClassLoss, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a loss, and its gradient with respect to the true-class logit, at each p_y.

    Shapes: probabilities [N] in (0, 1]; both results are float64 [N]. Two classes stand for any number, since
    the derivative of log p_y with respect to the true logit is 1 - p_y whatever the others are.
    """
    true_logit = torch.logit(probabilities.double()).clamp(max=40.0).requires_grad_()  # p_y = 1 to the last digit
    logits = torch.stack([true_logit, torch.zeros_like(true_logit)], dim=1)
    values = loss(logits, torch.zeros(len(logits), dtype=torch.long), reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), true_logit)
    return values.detach(), gradient


def curve_points(loss: TrueClassLoss) -> Tensor:
    """Where to draw a loss: float64 [N] of p_y ascending from 1e-6 to 1, 100 per decade.

    Two more enclose each place where the gradient changes sign or becomes zero.
    """
    points = torch.logspace(-6, 0, 601, dtype=torch.float64)
    sign = loss_curve(loss, points)[1].sign()
    changes = (sign[:-1] != sign[1:]) & sign[:-1].isfinite() & sign[1:].isfinite()
    low, high, before = points[:-1][changes], points[1:][changes], sign[:-1][changes]
    for _ in range(40):  # halves the distance each time
        middle = (low * high).sqrt()
        same = loss_curve(loss, middle)[1].sign() == before
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.cat([points, low, high]).unique()
