"""Images as uint8 tensors, in memory or mapped from their cache, served in batches."""

import dataclasses
import signal
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from igb import _batches, _checks
from igb._checks import InputError
from igb.data import cache
from igb.data.images import Images, LazyImages, check_class_names, check_split, release, summary
from igb.data.order import Batch, EpochSampler, Shards
from igb.data.scaling import SCALINGS, affine
from igb.training.stopping import SIGNALS

# Options that do not change the decoded images.
SERVING = {
    "batch_size", "scaling", "seed", "cache_dir", "trainer", "memory", "workers", "fraction", "imbalance", "modulo"
}  # fmt: skip
MEMORIES = ("auto", "device", "host", "map")


class ImageData(pl.LightningDataModule):
    """A data set of images; each batch is indexed, converted and scaled at once.

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
        memory: where training images are: `device`, in the memory of the trainer's device; `host`, in that of the
            machine; `map`, in the cache's files, of which each batch is read by itself. `auto` maps more than 2 GiB of
            images and puts others on the device. Batches are the same.
        fraction: of the training images of each class, from 0 to 1, those that are trained with, at least one. Which
            they are is the same for every seed, and a larger fraction has those of a smaller; scaling is by all images.
        imbalance: how many times more images the first class trains with than the last, at least 1; the part of its
            images that class k keeps falls exponentially with k (Y. Cui et al., arXiv 1901.05555), from `fraction`.
        modulo: joins classes: of label k, the label is k mod this number, less than that of the source's classes.
        workers: processes of `map` that read batches ahead; 0 reads them when they are needed.
    """

    class_names: Sequence[str]  # of the source; those trained with are `classes`
    train_images: Tensor  # uint8 [N, C, H, W]
    train_labels: Tensor  # int64 [N]
    true_labels: Tensor  # of the training images, where `train_labels` are noisy
    kept: Tensor  # int64, the indices of the training images that are served
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
        memory: str = "auto",
        workers: int = 2,
        fraction: float = 1.0,
        imbalance: float = 1.0,
        modulo: int | None = None,
    ) -> None:
        super().__init__()
        self.color = _checks.boolean("color", color)
        self.image_size = _checks.integer("image_size", image_size, at_least=1)
        self.batch_size = _checks.integer("batch_size", batch_size, at_least=1)
        self.scaling = _checks.choice("scaling", scaling, SCALINGS)
        self.seed = _checks.seed("seed", seed)
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else platformdirs.user_cache_path("igb")
        self.memory = _checks.choice("memory", memory, MEMORIES)
        self.workers = _checks.integer("workers", workers, at_least=0)
        self.fraction = _checks.number("fraction", fraction, at_least=0, at_most=1)
        self.imbalance = _checks.number("imbalance", imbalance, at_least=1)
        self.modulo = modulo  # `classes` checks it, once the source has said which it has
        if memory == "map" and not self._is_cached:
            raise InputError(f"memory=map needs a source that is cached; {type(self).__name__} is not")

    @abstractmethod
    def decode(self) -> Images:
        """Find every image; reading one raises an InputError that names the file if it cannot be read."""

    def files(self) -> Sequence[str | Path]:
        """The files the images come from; decoded images are cached until one changes. Unless overridden, no cache."""
        return []

    def setup(self, stage: str | None = None) -> None:
        """Load the images once, from the cache if it is up to date. Lightning calls this too."""
        if hasattr(self, "train_images"):
            return
        check_class_names(self.class_names)
        if self._is_cached:
            options = {name: value for name, value in vars(self).items() if name not in SERVING and name[0] != "_"}
            sources = [each for each in type(self).__mro__ if issubclass(each, ImageData) and each is not ImageData]
            arrays, found = cache.cached(self._checked, self.files(), sources, options, self.cache_dir, self.memory)
        else:
            lazy = vars(self._checked())
            arrays = {name: value[:] if isinstance(value, LazyImages) else value for name, value in lazy.items()}
            found = summary(arrays)
        self._digest = found.digest
        self._offset, self._divisor = affine(self.scaling, found.counts)
        self._counts = found.counts
        self._affine: dict[torch.device, tuple[Any, Any]] = {}
        self._shard = (0, 1)
        self._maps = [array for array in arrays.values() if isinstance(array, np.memmap)]
        self._mapped = self._maps[0] if self._maps else None
        for name, array in arrays.items():
            setattr(self, name, torch.from_numpy(array))
        if self.modulo is not None:
            self.train_labels, self.test_labels = self.train_labels % self.modulo, self.test_labels % self.modulo
        self.kept = self._kept()
        self._sampler = EpochSampler(self.kept, self.batch_size, self.seed)

    def _kept(self) -> Tensor:
        """The indices of the training images that are served, in their order."""
        if self.fraction == self.imbalance == 1:
            return torch.arange(len(self.train_labels))
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(0))
        classes, parts = len(self.classes), []
        for k in range(classes):
            members = order[self.train_labels[order] == k]
            share = self.fraction * self.imbalance ** (-k / (classes - 1))
            parts.append(members[: max(1, round(len(members) * share))])
        return torch.cat(parts).sort().values

    @property
    def _is_cached(self) -> bool:
        return type(self).files is not ImageData.files

    def _checked(self) -> Images:
        """What the source decodes, checked, with channels."""
        images = self.decode()
        for split in ("train", "test"):
            found, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
            if isinstance(found, np.ndarray) and found.ndim == 3:
                found = found[:, None]
            check_split(split, found, labels, self.class_names, self.channels)
            images = dataclasses.replace(images, **{f"{split}_images": found})
        return images

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes that are trained with; InputError if `modulo` does not join classes."""
        if self.modulo is None:
            return self.class_names
        _checks.integer("modulo", self.modulo, at_least=2, at_most=len(self.class_names) - 1)
        return [f"{k} mod {self.modulo}" for k in range(self.modulo)]

    @property
    def channels(self) -> int:
        """C, the channels of an image."""
        return 3 if self.color else 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def entries(self) -> dict[str, str | list[str]]:
        """What run.json says of the images: their hash (see `Summary`), and the names of their classes."""
        return {"images": self._digest, "class_names": list(self.classes)}

    def relabel(self, labels: Tensor) -> None:
        """Train with other labels [N]; `true_labels` keeps those of the source."""
        self.true_labels = self.train_labels
        self.train_labels = labels

    @property
    def wrong_labels(self) -> int:
        """The number of training images whose label is not that of the source."""
        return int((self.train_labels != self.true_labels)[self.kept].sum())

    def shard(self, rank: int, world_size: int, at_least: int) -> None:
        """Serve one process's shard of every batch from now on; InputError if a shard has fewer than `at_least`."""
        smallest = min(map(len, self._sampler))
        if smallest < world_size * at_least:
            raise InputError(
                f"batch_size={self.batch_size} leaves a batch of {smallest} images, too few for {at_least} on each of "
                f"{world_size} devices"
            )
        self._shard = (rank, world_size)

    def scale(self, images: Tensor) -> Tensor:
        """Scale uint8 images [N, C, H, W] to the network's input, float32 [N, C, H, W]."""
        if images.device not in self._affine:
            offset, divisor = (torch.tensor(values)[:, None, None] for values in (self._offset, self._divisor))
            self._affine[images.device] = offset.to(images.device), divisor.to(images.device)
        offset, divisor = self._affine[images.device]
        return images.float().sub_(offset).div_(divisor)

    def standardised(self, images: Tensor) -> Tensor:
        """The same with `scaling=standard`, on the CPU, whatever the scaling is."""
        offset, divisor = (torch.tensor(values)[:, None, None] for values in affine("standard", self._counts))
        return images.float().sub_(offset).div_(divisor)

    def shuffled(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """The training images once, scaled, in chunks [size, C, H, W], in an order that is the same for every seed."""
        order = self.kept[torch.randperm(len(self.kept), generator=torch.Generator().manual_seed(0))]
        for chunk in _batches.split(order, size):
            yield self.scale(self.train_images[chunk].to(device))
            self.release()

    def release(self) -> None:
        """Give back the memory that holds what was read of mapped images."""
        for array in self._maps:
            release(array)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of uint8 images [B, C, H, W] and labels [B]; Lightning tells the sampler the epoch.

        Unless they are mapped or in the host's memory, images, labels and order lie on the trainer's device, so that no
        batch waits for a transfer.
        """
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        is_on_host = self.memory == "host" or self._mapped is not None
        place = torch.device("cpu") if is_on_host else device
        self._sampler.device = place
        if self.trainer:
            self._sampler.start_at(*divmod(self.trainer.global_step, self.steps_per_epoch))
        try:
            images, labels = self.train_images.to(place), self.train_labels.to(place)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"data.memory={self.memory}: {self.train_images.nbytes / 1e9:.2f} GB of images do not fit the memory "
                f"of {device}; use host or map"
            ) from error
        options: dict[str, Any] = {}
        if self._mapped is not None and self.workers:
            options = {
                "num_workers": self.workers,
                "persistent_workers": True,
                "multiprocessing_context": "fork",  # another start would copy the images into each worker
                "worker_init_fn": _ignore_signals,
            }
        return DataLoader(
            Shards(images, labels, *self._shard, self._mapped),
            sampler=self._sampler,
            batch_size=None,
            generator=torch.Generator(),  # else every epoch would draw from the global one
            pin_memory=is_on_host and device.type == "cuda",
            **options,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Transfer a batch that is not there."""
        images, labels = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.labels))
        return Batch(images, labels, batch.size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scale a batch of uint8 images on the device."""
        return batch._replace(images=self.scale(batch.images))


def _ignore_signals(worker: int) -> None:
    """Leave stopping to the process that trains, which ends its workers itself: signals often go to all of a job."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
