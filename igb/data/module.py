"""Grayscale images held in memory as one uint8 tensor and served as batches of it."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import platformdirs
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from igb import _checks
from igb._checks import InputError
from igb.data import cache
from igb.data.images import Images, check_class_names, check_split
from igb.data.order import Batch, EpochSampler, Shards
from igb.data.scaling import SCALINGS, affine

SERVING = {"batch_size", "scaling", "seed", "cache_dir", "trainer"}  # options that leave the decoded images as they are


class ImageData(pl.LightningDataModule):
    """A data set of grayscale images in memory; a batch is an index into it, converted and scaled as a whole.

    A subclass sets `class_names` in its constructor (cheaply, so that a sweep can be checked before it starts) and
    gives `decode`, and `files` where decoding is worth keeping.

    Args:
        image_size: height and width of the images, in pixels.
        batch_size: images in a training batch; a last batch of one image joins the one before it.
        scaling: `standard` to mean 0 and standard deviation 1 over the training set, `unit` to [0, 1],
            `symmetric` to [-1, 1], `raw` to [0, 255].
        seed: with the epoch, it alone decides the order of the training images.
        cache_dir: where decoded images are kept; the user's cache folder unless given.
    """

    class_names: Sequence[str]
    train_images: Tensor  # uint8 [N, H, W]
    train_labels: Tensor  # int64 [N]
    test_images: Tensor
    test_labels: Tensor

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 32,
        scaling: str = "standard",
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.image_size = _checks.integer("image_size", image_size, at_least=1)
        self.batch_size = _checks.integer("batch_size", batch_size, at_least=1)
        self.scaling = _checks.choice("scaling", scaling, SCALINGS)
        self.seed = _checks.seed("seed", seed)
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else platformdirs.user_cache_path("igb")

    @abstractmethod
    def decode(self) -> Images:
        """Read every image; raise InputError that names the file where one cannot be read."""

    def files(self) -> Sequence[str | Path]:
        """The files the images come from; the decoded images are kept until one of them changes. No file: not kept."""
        return []

    def setup(self, stage: str | None = None) -> None:
        """Load the images, from the cache where it is fresh. Called by Lightning too; loads once."""
        if hasattr(self, "train_images"):
            return
        check_class_names(self.class_names)
        arrays = self._images()
        for split in ("train", "test"):
            check_split(split, getattr(arrays, f"{split}_images"), getattr(arrays, f"{split}_labels"), self.class_names)
        self._offset, self._divisor = affine(self.scaling, arrays.train_images)
        self._sampler = EpochSampler(len(arrays.train_labels), self.batch_size, self.seed)
        self._shard = (0, 1)
        for name, array in vars(arrays).items():
            setattr(self, name, torch.from_numpy(array))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def digest(self) -> str:
        """A hash of the decoded images and labels of both splits, which is the same wherever they lie."""
        found = hashlib.sha256()
        for name in (field.name for field in fields(Images)):
            array = getattr(self, name).numpy()
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def shard(self, rank: int, processes: int, at_least: int) -> None:
        """Serve one process's shard of every batch from now on; InputError if a shard has fewer than `at_least`."""
        smallest = min(map(len, self._sampler))
        if smallest < processes * at_least:
            raise InputError(
                f"batch_size={self.batch_size} leaves a batch of {smallest} images, too few for {at_least} on each of "
                f"trainer.devices={processes}"
            )
        self._shard = (rank, processes)

    def scale(self, images: Tensor) -> Tensor:
        """Scale uint8 images [N, H, W] to the network's input, float32 [N, 1, H, W]."""
        return images.unsqueeze(1).float().sub_(self._offset).div_(self._divisor)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of uint8 images [B, H, W] and labels [B]; Lightning tells the sampler the epoch.

        Images, labels and order lie on the trainer's device, so that no batch waits for a transfer.
        """
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._sampler.device = device
        if self.trainer:
            self._sampler.start_at(*divmod(self.trainer.global_step, self.steps_per_epoch))
        return DataLoader(
            Shards(self.train_images.to(device), self.train_labels.to(device), *self._shard),
            sampler=self._sampler,
            batch_size=None,
            generator=torch.Generator(),  # else every epoch would draw from the global one
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scale a batch, which is bytes, on the device."""
        return batch._replace(images=self.scale(batch.images))

    def _images(self) -> Images:
        """The decoded images, kept in the cache where decoding is worth it."""
        if type(self).files is ImageData.files:
            return self.decode()
        options = {name: value for name, value in vars(self).items() if name not in SERVING and name[0] != "_"}
        return cache.cached(self.decode, self.files(), type(self), options, self.cache_dir)
