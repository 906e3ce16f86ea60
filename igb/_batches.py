"""Splitting a set of images into batches."""

import torch


def split(items: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Split images, labels or indices [N, ...] into batches of `size`; every item is kept.

    If the last batch would hold a single item it is merged into the one before: batch norm cannot normalise one value
    per channel. So no batch has one item, unless N or `size` is 1.
    """
    parts = items.split(size)
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return parts
