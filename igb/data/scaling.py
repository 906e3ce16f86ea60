"""How pixels are scaled to the input of a network."""

import numpy as np

from igb._checks import InputError

SCALINGS = ("standard", "unit", "symmetric", "raw")


def affine(scaling: str, counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Offset and divisor of each channel, from how often each value occurs in the training images, int64 [C, 256]."""
    channels = len(counts)
    if scaling == "standard":
        found = [_standard(of_channel) for of_channel in counts]
        return [mean for mean, _ in found], [deviation for _, deviation in found]
    offset, divisor = {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5), "raw": (0.0, 1.0)}[scaling]
    return [offset] * channels, [divisor] * channels


def _standard(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of one channel."""
    values = np.arange(256)
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    if deviation == 0:
        raise InputError("scaling=standard needs varying pixels; all training pixels are equal")
    return float(mean), float(deviation)
