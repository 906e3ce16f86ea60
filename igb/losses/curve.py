"""A loss as a function of p_y, the probability of the true class: its value, gradient and weight at each p_y."""

from collections.abc import Iterator

import torch
from torch import Tensor

from igb.losses.base import ProbabilityLoss, weights

FAR = -50.0  # the logit of classes that have nothing: where they would have no probability at all, log p is infinite
# The lines along which a loss of all classes is drawn: what the others have of 1 - p_y.
LINES = ("others alike", "one other class")


def loss_curve(
    loss: ProbabilityLoss, probabilities: Tensor, classes: int = 2, line: str = LINES[0]
) -> tuple[Tensor, Tensor, Tensor]:
    """The value of a loss, its gradient with respect to the true-class logit, and its weight, at each p_y.

    Shapes: probabilities [N] in (0, 1]; all results are float64 [N]. For a loss of p_y alone two classes stand for any
    number, since the derivative of log p_y with respect to the true logit is 1 - p_y whatever the others are. A loss of
    all classes is taken along a line of `LINES`: either all others have equal shares of the rest, or one of them has
    it, and the logits of all beyond it are 50 lower.
    """
    true_logit = torch.logit(probabilities.double()).clamp(max=40.0)  # p_y = 1 to the last digit
    others = torch.zeros(len(true_logit), classes - 1, dtype=torch.float64)
    if line == LINES[0]:
        true_logit = true_logit + torch.log(torch.tensor(classes - 1.0, dtype=torch.float64))
    else:
        others[:, 1:] = FAR
    target = torch.zeros(len(true_logit), dtype=torch.long)
    log_p = torch.log_softmax(torch.cat([true_logit[:, None], others], dim=1), dim=1).requires_grad_()
    values = loss.of_log_probabilities(log_p, target)
    (gradient,) = torch.autograd.grad(values.sum(), log_p)
    weight = weights(loss, log_p.detach(), gradient, target)
    rest = torch.exp(log_p.detach()[:, 1:]).sum(dim=1)
    return values.detach(), -weight * rest, weight


def curve_points(loss: ProbabilityLoss, classes: int = 2, line: str = LINES[0]) -> Tensor:
    """Where to draw a loss: float64 [N] of p_y ascending from 1e-6 to 1, 100 per decade.

    Two more enclose each place where the gradient changes sign or becomes zero.
    """
    points = torch.logspace(-6, 0, 601, dtype=torch.float64)
    sign = loss_curve(loss, points, classes, line)[1].sign()
    changes = (sign[:-1] != sign[1:]) & sign[:-1].isfinite() & sign[1:].isfinite()
    low, high, before = points[:-1][changes], points[1:][changes], sign[:-1][changes]
    for _ in range(40):  # halves the distance each time
        middle = (low * high).sqrt()
        same = loss_curve(loss, middle, classes, line)[1].sign() == before
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.cat([points, low, high]).unique()


def loss_curves(loss: ProbabilityLoss, classes: int) -> Iterator[tuple[str, list[Tensor]]]:
    """The name of a loss, with that of the line if it depends on all classes, and p_y, value, gradient and weight."""
    if loss.is_of_true_class:
        points = curve_points(loss)
        yield str(loss), [points, *loss_curve(loss, points)]
        return
    for line in LINES if classes > 2 else LINES[:1]:
        points = curve_points(loss, classes, line)
        yield f"{loss}, {line}", [points, *loss_curve(loss, points, classes, line)]
