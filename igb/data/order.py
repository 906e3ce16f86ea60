"""The order of the training images, and the shard of a batch that a process sees."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from igb import _batches
from igb.data.images import release


class Batch(NamedTuple):
    """A process's shard of a batch: images [B, ...], labels [B], and the `size` of the whole batch."""

    images: Tensor
    labels: Tensor
    size: int


class Shards(Dataset[Batch]):
    """A data set whose items are one process's shards of the batches; shards differ by one image at most."""

    def __init__(
        self, images: Tensor, labels: Tensor, rank: int, world_size: int, mapped: np.ndarray | None = None
    ) -> None:
        """`mapped` is the array of the images, if they are mapped from a file."""
        self.images, self.labels, self.rank, self.world_size, self.mapped = images, labels, rank, world_size, mapped

    def __getitem__(self, batch: Tensor) -> Batch:
        shard = batch.tensor_split(self.world_size)[self.rank]
        found = Batch(self.images[shard], self.labels[shard], len(batch))
        if self.mapped is not None:
            release(self.mapped)
        return found


class EpochSampler(Sampler[Tensor]):
    """The batches of an epoch as index tensors, in an order that depends on `seed` and the epoch alone.

    `items` are the images to serve, by their indices, or as many as there are.
    """

    def __init__(self, items: Tensor | int, batch_size: int, seed: int) -> None:
        self.items = torch.arange(items) if isinstance(items, int) else items
        self.batch_size, self.seed = batch_size, seed
        self.start_at(0, 0)
        self.device = torch.device("cpu")

    def start_at(self, epoch: int, batch: int) -> None:
        """Set the epoch, counted from 0, and the next batch in it."""
        self.epoch, self.skipped = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, and start with its first batch; Lightning calls this."""
        self.start_at(epoch, 0)

    def __len__(self) -> int:
        return len(_batches.split(self.items, self.batch_size))

    def __iter__(self) -> Iterator[Tensor]:
        (state,) = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint32)
        order = self.items[torch.randperm(len(self.items), generator=torch.Generator().manual_seed(int(state)))]
        return iter(_batches.split(order.to(self.device), self.batch_size)[self.skipped :])
