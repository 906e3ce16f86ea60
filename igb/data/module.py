"""Images held in memory as uint8 tensors and served in batches."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

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

SERVING = {"batch_size", "scaling", "seed", "cache_dir", "trainer"}  # options that do not change the decoded images


class ImageData(pl.LightningDataModule):
    """A data set of images in memory; each batch is indexed, converted and scaled at once.

    A subclass sets `class_names` in its constructor (cheaply, so that a sweep can be checked before it starts) and
    implements `decode`, and `files` if the decoded images are to be cached.

    Args:
        color: whether images have three channels, red, green and blue, or one, gray.
        image_size: height and width of the images, in pixels.
        batch_size: images in a training batch. If the last batch would hold a single image it is merged into the one
            before: batch norm cannot normalise one sample.
        scaling: of each channel: `standard` to mean 0 and standard deviation 1 over the training set, `unit` to
            [0, 1], `symmetric` to [-1, 1], `raw` to [0, 255].
        seed: it and the epoch alone decide the order of the training images.
        cache_dir: where decoded images are cached; by default the user's cache folder.
    """

    class_names: Sequence[str]
    train_images: Tensor  # uint8 [N, C, H, W]
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
        color: bool = False,
    ) -> None:
        super().__init__()
        self.color = _checks.boolean("color", color)
        self.image_size = _checks.integer("image_size", image_size, at_least=1)
        self.batch_size = _checks.integer("batch_size", batch_size, at_least=1)
        self.scaling = _checks.choice("scaling", scaling, SCALINGS)
        self.seed = _checks.seed("seed", seed)
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else platformdirs.user_cache_path("igb")

    @abstractmethod
    def decode(self) -> Images:
        """Read every image; raise an InputError that names the file if one cannot be read."""

    def files(self) -> Sequence[str | Path]:
        """The files the images come from; decoded images are cached until one changes. Unless overridden, no cache."""
        return []

    def setup(self, stage: str | None = None) -> None:
        """Load the images once, from the cache if it is up to date. Lightning calls this too."""
        if hasattr(self, "train_images"):
            return
        check_class_names(self.class_names)
        arrays = self._images()
        for split in ("train", "test"):
            images, labels = getattr(arrays, f"{split}_images"), getattr(arrays, f"{split}_labels")
            if images.ndim == 3:
                images = images[:, None]
                setattr(arrays, f"{split}_images", images)
            check_split(split, images, labels, self.class_names, self.channels)
        self._offset, self._divisor = affine(self.scaling, arrays.train_images)
        self._affine: dict[torch.device, tuple[Any, Any]] = {}
        self._sampler = EpochSampler(len(arrays.train_labels), self.batch_size, self.seed)
        self._shard = (0, 1)
        for name, array in vars(arrays).items():
            setattr(self, name, torch.from_numpy(array))

    @property
    def channels(self) -> int:
        """C, the channels of an image."""
        return 3 if self.color else 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def digest(self) -> str:
        """A hash of the decoded images and labels of both splits, independent of where they are stored."""
        found = hashlib.sha256()
        for name in (field.name for field in fields(Images)):
            array = getattr(self, name).numpy()
            if array.ndim == 4 and array.shape[1] == 1:  # as it was hashed before there was colour
                array = array[:, 0]
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def entries(self) -> dict[str, str | list[str]]:
        """What run.json says of the images: their hash, and the names of their classes."""
        return {"images": self.digest(), "class_names": list(self.class_names)}

    def shard(self, rank: int, world_size: int, at_least: int) -> None:
        """Serve one process's shard of every batch from now on; InputError if a shard has fewer than `at_least`."""
        smallest = min(map(len, self._sampler))
        if smallest < world_size * at_least:
            raise InputError(
                f"batch_size={self.batch_size} leaves a batch of {smallest} images, too few for {at_least} on each of "
                f"trainer.devices={world_size}"
            )
        self._shard = (rank, world_size)

    def scale(self, images: Tensor) -> Tensor:
        """Scale uint8 images [N, C, H, W] to the network's input, float32 [N, C, H, W]."""
        if images.device not in self._affine:
            offset, divisor = (torch.tensor(values)[:, None, None] for values in (self._offset, self._divisor))
            self._affine[images.device] = offset.to(images.device), divisor.to(images.device)
        offset, divisor = self._affine[images.device]
        return images.float().sub_(offset).div_(divisor)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of uint8 images [B, C, H, W] and labels [B]; Lightning tells the sampler the epoch.

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

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Nothing to transfer."""
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scale a batch of uint8 images on the device."""
        return batch._replace(images=self.scale(batch.images))

    def _images(self) -> Images:
        """The decoded images, cached if the source overrides `files`."""
        if type(self).files is ImageData.files:
            return self.decode()
        options = {name: value for name, value in vars(self).items() if name not in SERVING and name[0] != "_"}
        return cache.cached(self.decode, self.files(), type(self), options, self.cache_dir)
