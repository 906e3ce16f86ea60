"""How a set of images is cut into batches."""

import torch


def split(items: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Cut images, labels or indices [N, ...] into runs of `size`; a last run of one joins the run before it.

    Batch norm cannot normalise one value per channel, so no batch or chunk of one image is left over
    (unless N or `size` is 1); every item is kept.
    """
    parts = items.split(size)
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return parts
