"""Grayscale images held in memory as one uint8 tensor and served as batches of it."""

import contextlib
import hashlib
import inspect
import logging
import os
import tempfile
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import platformdirs
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from igb import _batches, _checks
from igb._checks import InputError
from igb._paths import replacing

SCALINGS = ("standard", "unit", "symmetric", "raw")
SERVING = {"batch_size", "scaling", "seed", "cache_dir", "trainer"}  # options that leave the decoded images as they are

log = logging.getLogger(__name__)


@dataclass
class Images:
    """A decoded data set: uint8 images [N, H, W] and int64 labels [N] of the training and the test split."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Batch(NamedTuple):
    """A process's share of a batch: images [B, ...], labels [B], and the `size` of the whole batch."""

    images: Tensor
    labels: Tensor
    size: int


class Shares(Dataset[Batch]):
    """What one of several processes sees of a data set whose items are batches: shares differ by one image at most."""

    def __init__(self, images: Tensor, labels: Tensor, rank: int, processes: int) -> None:
        self.images, self.labels, self.rank, self.processes = images, labels, rank, processes

    def __getitem__(self, batch: Tensor) -> Batch:
        share = batch.tensor_split(self.processes)[self.rank]
        return Batch(self.images[share], self.labels[share], len(batch))


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
        arrays = self._cached()
        for split in ("train", "test"):
            _check_split(
                split, getattr(arrays, f"{split}_images"), getattr(arrays, f"{split}_labels"), self.class_names
            )
        self._offset, self._divisor = _affine(self.scaling, arrays.train_images)
        self._sampler = EpochSampler(len(arrays.train_labels), self.batch_size, self.seed)
        self._share = (0, 1)
        for name, array in vars(arrays).items():
            setattr(self, name, torch.from_numpy(array))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def deal(self, rank: int, processes: int, at_least: int) -> None:
        """Serve one process's share of every batch from now on; InputError if a share has fewer than `at_least`."""
        smallest = min(map(len, self._sampler))
        if smallest < processes * at_least:
            raise InputError(
                f"batch_size={self.batch_size} leaves a batch of {smallest} images, too few for {at_least} on each of "
                f"trainer.devices={processes}"
            )
        self._share = (rank, processes)

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
            Shares(self.train_images.to(device), self.train_labels.to(device), *self._share),
            sampler=self._sampler,
            batch_size=None,
            generator=torch.Generator(),  # else every epoch would draw from the global one
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scale a batch, which is bytes, on the device."""
        return batch._replace(images=self.scale(batch.images))

    def _cached(self) -> Images:
        """The decoded images, from the cache if no file changed since; processes that start at once decode once."""
        if type(self).files is ImageData.files:
            return self.decode()
        kind = type(self).__name__.lower()
        options = {name: str(value) for name, value in vars(self).items() if name not in SERVING and name[0] != "_"}
        key = f"{type(self).__module__} {sorted(options.items())}"
        cache = self.cache_dir / f"{kind}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}.npz"
        lock = self.cache_dir / f"{kind}.lock"
        with contextlib.ExitStack() as stack:
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.cache_dir).close()
            except OSError as error:
                raise InputError(f"cache_dir={self.cache_dir} cannot be written ({error})") from error
            try:
                stack.enter_context(filelock.FileLock(lock))
            except (OSError, NotImplementedError) as error:  # of a file system without locks
                log.warning("%s cannot be locked (%s); runs that start at once each decode the images", lock, error)
            fingerprint = _fingerprint(type(self), self.files())
            images = _read_cache(cache, fingerprint)
            if images is None:
                images = self.decode()
                _write_cache(cache, fingerprint, images)
        return images


class EpochSampler(Sampler[Tensor]):
    """The batches of an epoch as index tensors, in an order that depends on `seed` and the epoch alone."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start_at(0, 0)
        self.device = torch.device("cpu")

    def start_at(self, epoch: int, batch: int) -> None:
        """Choose the epoch, counted from 0, and the batch in it that comes next."""
        self.epoch, self.skipped = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose batches come next; Lightning calls it."""
        self.start_at(epoch, 0)

    def __len__(self) -> int:
        return len(_batches.split(torch.arange(self.count), self.batch_size))

    def __iter__(self) -> Iterator[Tensor]:
        (state,) = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint32)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(int(state)))
        return iter(_batches.split(order.to(self.device), self.batch_size)[self.skipped :])


def grayscale(image: Image.Image, size: int) -> np.ndarray:
    """One image as uint8 [size, size]: ITU-R 601 luma as `PIL.Image.convert("L")` gives it, then resized (bilinear)."""
    if image.mode.startswith(("I", "F")):  # PIL would clip, not scale
        raise ValueError(f"pixels of more than 8 bits, mode {image.mode}; convert it to 8 bits")
    gray = image.convert("L")
    if gray.size != (size, size):
        gray = gray.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(gray)


def _check_split(split: str, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raise InputError unless the images and labels that a source decoded are what it promised."""
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(f"decode: {split} images must be uint8 [N, H, W]; they are {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise InputError(
            f"decode: {split} labels must be int64 [{len(images)}]; they are {labels.dtype} {labels.shape}"
        )
    present, classes = set(labels.tolist()), range(len(class_names))
    if not present <= set(classes):
        raise InputError(f"decode: {split} labels must lie from 0 to {len(classes) - 1}, one less than the class names")
    for k in sorted(set(classes) - present):
        raise InputError(f"class_names: the {split} split has no image of class {class_names[k]!r}")


def _affine(scaling: str, train_images: np.ndarray) -> tuple[float, float]:
    """Offset and divisor of a scaling."""
    if scaling == "standard":
        parts = np.array_split(train_images, 100)  # bincount needs eight bytes for each of theirs
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        values = np.arange(256)
        mean = np.average(values, weights=counts)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        if deviation == 0:
            raise InputError("scaling=standard needs images that differ; every training pixel is the same")
        return float(mean), float(deviation)
    return {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5), "raw": (0.0, 1.0)}[scaling]


def _fingerprint(source: type, files: Sequence[str | Path]) -> str:
    """A hash that changes with the code of the source, and the path, size or time of any of the files."""
    digest = hashlib.sha256(inspect.getsource(grayscale).encode())
    with contextlib.suppress(OSError, TypeError):  # of a class without a file, as in a notebook
        digest.update(inspect.getsource(source).encode())
    for file in files:
        try:
            stat = os.stat(file)  # noqa: PTH116  (60,000 Path objects would take as long as all else)
        except OSError as error:
            raise InputError(f"root: {file} cannot be read ({error.strerror})") from error
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_cache(cache: Path, fingerprint: str) -> Images | None:
    """The images kept in `cache`, or None where there are none, they are stale, or the file is damaged."""
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*damage), open(cache, "rb") as stream, np.load(stream) as arrays:
        if str(arrays["fingerprint"]) == fingerprint:
            return Images(**{field.name: arrays[field.name] for field in fields(Images)})
    return None


def _write_cache(cache: Path, fingerprint: str, images: Images) -> None:
    try:
        with replacing(cache) as partial, open(partial, "wb") as stream:
            np.savez(stream, fingerprint=np.array(fingerprint), **vars(images))
    except OSError as error:
        raise InputError(f"cache_dir={cache.parent} cannot be written ({error})") from error
