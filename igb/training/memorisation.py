"""What a network makes of the training images whose labels are wrong, at every probe."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from igb import _batches
from igb.data import ImageData
from igb.folder.schema import LABELS, MEMORISATION
from igb.statistics import undisturbed

COLUMNS = tuple(MEMORISATION)[4:]  # all but the first, the count, are means over the images of a group
CONFIDENT = 0.95  # probability of the most likely class


class Labelled(NamedTuple):
    """Training images, uint8 [N, C, H, W], with their given and their true labels, int64 [N]."""

    images: Tensor
    given: Tensor
    true: Tensor

    @classmethod
    def of(cls, data: ImageData, order: Tensor) -> "Labelled":
        """Those of a data set with noisy labels, in an order of indices."""
        found = cls(data.train_images[order], data.train_labels[order], data.true_labels[order])
        data.release()
        return found

    def to(self, device: torch.device) -> "Labelled":
        """The same on a device."""
        return Labelled(*(tensor.to(device) for tensor in self))


def memorisation(
    network: nn.Module,
    subset: Labelled,
    classes: int,
    scale: Callable[[Tensor], Tensor],
    chunk: int,
    batch_norm: str,
    distributed: bool = False,
) -> Tensor:
    """What the network predicts for images whose labels are clean and wrong, float64 [2, 1 + classes, 7].

    First as LABELS, last as COLUMNS; between, at 0 all images, and at 1 + k those that are labelled as class k, with
    NaN for means over none. An image of which several classes have the largest logit counts as predicted by each of m
    with 1/m. `distributed` processes share the chunks. The network is left as it was.
    """
    device = subset.images.device
    of_classes = torch.zeros(len(LABELS), classes, len(COLUMNS), dtype=torch.float64, device=device)
    parts = list(zip(*(_batches.split(tensor, chunk) for tensor in subset), strict=True))
    rank, processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    rounds = -(-len(parts) // processes)  # of which all take part in each, as synchronised batch norm asks for
    with undisturbed(network, device, batch_norm):
        for number in range(rank, rounds * processes, processes):
            images, given, true = parts[number % len(parts)]
            logits = network(scale(images)).double()
            if number >= len(parts):
                continue
            prediction = (logits == logits.amax(1, keepdim=True)).double()
            prediction /= prediction.sum(1, keepdim=True)
            probability = logits.softmax(1)
            of_given, of_true = (prediction.gather(1, labels[:, None])[:, 0] for labels in (given, true))
            is_wrong = given != true
            columns = (
                torch.ones_like(of_given),
                of_given,
                of_true,
                1 - of_given - torch.where(is_wrong, of_true, 0.0),
                *(probability.gather(1, labels[:, None])[:, 0] for labels in (given, true)),
                (probability.amax(1) > CONFIDENT).double(),
            )
            of_classes.view(-1, len(COLUMNS)).index_add_(
                0, is_wrong.long() * classes + given, torch.stack(columns, dim=1)
            )
    if distributed:
        dist.all_reduce(of_classes)
    sums = torch.cat([of_classes.sum(1, keepdim=True), of_classes], dim=1)
    sums[..., 1:] /= sums[..., :1]
    return sums.cpu()
