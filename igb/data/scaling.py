"""How pixels are scaled to the input of a network."""

import numpy as np

from igb._checks import InputError

SCALINGS = ("standard", "unit", "symmetric", "raw")


def affine(scaling: str, train_images: np.ndarray) -> tuple[list[float], list[float]]:
    """Offset and divisor of each channel of uint8 images [N, C, H, W]."""
    channels = train_images.shape[1]
    if scaling == "standard":
        found = [_standard(train_images[:, channel]) for channel in range(channels)]
        return [mean for mean, _ in found], [deviation for _, deviation in found]
    offset, divisor = {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5), "raw": (0.0, 1.0)}[scaling]
    return [offset] * channels, [divisor] * channels


def _standard(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of one channel."""
    parts = np.array_split(images, 100)  # bincount needs eight bytes per pixel, so one part at a time
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
    values = np.arange(256)
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    if deviation == 0:
        raise InputError("scaling=standard needs varying pixels; all training pixels are equal")
    return float(mean), float(deviation)
