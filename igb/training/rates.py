"""The config group `schedule`: functions from the time in epochs to a factor of the learning rate.

Each has epochs of its own, so that the past of a run does not change when it is lengthened.
"""

import math
from collections.abc import Callable

from igb import _checks

RateSchedule = Callable[[float], float]  # of the epochs that will be done after a step, to the factor in that step


def constant() -> RateSchedule:
    """The learning rate of the optimizer throughout."""
    return lambda epoch: 1.0


def step(epochs: float = 10.0, gamma: float = 0.1) -> RateSchedule:
    """The learning rate is multiplied by gamma after every so many epochs.

    `epochs` is above 0, gamma between 0 and 1.
    """
    epochs, gamma = _length(epochs), _checks.number("gamma", gamma, at_least=0, at_most=1)
    return lambda epoch: gamma ** max(math.ceil(round(epoch / epochs, 9)) - 1, 0)


def cosine(epochs: float = 20.0, last: float = 0.0) -> RateSchedule:
    """The learning rate falls over so many epochs as half a cosine, from the optimizer's to `last` times that.

    I. Loshchilov and F. Hutter, "SGDR", arXiv 1608.03983, without restarts: then it stays. `epochs` is
    above 0, `last` between 0 and 1.
    """
    epochs, last = _length(epochs), _checks.number("last", last, at_least=0, at_most=1)
    return lambda epoch: last + (1 - last) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


def warmup(epochs: float = 1.0) -> RateSchedule:
    """The learning rate rises over so many epochs, in proportion to the steps, to the optimizer's.

    P. Goyal et al., "Accurate, Large Minibatch SGD", arXiv 1706.02677. `epochs` is above 0.
    """
    epochs = _length(epochs)
    return lambda epoch: min(epoch / epochs, 1.0)


def _length(epochs: float) -> float:
    return _checks.number("epochs", epochs, at_least=1e-3)
