"""The data sources igb offers: CIFAR-10, scikit-learn's digits, and a folder of images."""

import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igb._checks import InputError, one_line
from igb.data import ImageData, Images, grayscale


class CIFAR10(ImageData):
    """CIFAR-10 (A. Krizhevsky, 2009) in grayscale: 50,000 training and 10,000 test images of ten classes.

    Args:
        root: the folder that holds `cifar-10-python.tar.gz` or its unpacked `cifar-10-batches-py`; downloaded there if
            neither is. `cifar10` in the cache folder unless given.
        options: see `ImageData`.
    """

    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, root: str | Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.root = (Path(str(root)).expanduser() if root else self.cache_dir / "cifar10").resolve()

    def files(self) -> list[Path]:
        """The unpacked batch files, downloaded if they are not there."""
        from torchvision import datasets

        source = datasets.CIFAR10
        folder = self.root / source.base_folder
        names = [name for name, _ in [*source.train_list, *source.test_list]] + [source.meta["filename"]]
        files = [folder / name for name in names]
        if not all(file.exists() for file in files):
            self._split(train=True)  # downloads and unpacks
        return files

    def decode(self) -> Images:
        """Read the batch files with torchvision."""
        arrays: dict[str, np.ndarray] = {}
        for name, train in (("train", True), ("test", False)):
            split = self._split(train)
            images = (grayscale(Image.fromarray(image), self.image_size) for image in split.data)
            arrays |= _arrays(name, images, split.targets)
        return Images(**arrays)

    def _split(self, train: bool) -> Any:
        from torchvision import datasets

        try:
            return datasets.CIFAR10(self.root, train=train, download=True)
        except (
            OSError,
            RuntimeError,
            EOFError,
        ) as error:  # no network, a wrong checksum, a folder that cannot be written
            raise InputError(
                f"root={self.root} does not hold CIFAR-10 and it could not be downloaded ({one_line(error)}); "
                f"put {datasets.CIFAR10.filename} (from {datasets.CIFAR10.url}) into that folder"
            ) from error


class Digits(ImageData):
    """scikit-learn's 1,797 scanned handwritten digits, resized; 1,437 to train and 360 to test, split by class.

    Needs no download. The originals are 8 x 8 pixels of 17 gray levels (E. Alpaydin, C. Kaynak, 1998).
    """

    class_names = tuple("0123456789")

    def decode(self) -> Images:
        """Take the digits from scikit-learn and split them."""
        return _digits(self.image_size)


class ImageFolder(ImageData):
    """Images in `root/train/<class>/*` and `root/test/<class>/*`, the layout of `torchvision.datasets.ImageFolder`.

    Args:
        root: the folder with `train` and `test`; both have one folder a class, with the same names.
        options: see `ImageData`.
    """

    def __init__(self, root: str | Path | None, **options: Any) -> None:
        super().__init__(**options)
        if root is None:
            raise InputError("root=null must be given: a folder with train/<class>/* and test/<class>/*")
        self.root = Path(str(root)).expanduser().resolve()
        names = {split: self._class_folders(split) for split in ("train", "test")}
        for name in sorted(names["train"] ^ names["test"]):
            split = "test" if name in names["train"] else "train"
            raise InputError(f"root={self.root}: {split}/ has no folder {name!r}, but the other split has")
        self.class_names = sorted(names["train"])

    def files(self) -> list[str]:
        """All image files, class by class."""
        return [path for split in ("train", "test") for path, _ in self._samples(split)]

    def decode(self) -> Images:
        """Read every image file."""
        arrays: dict[str, np.ndarray] = {}
        with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter's lock
            for split in ("train", "test"):
                paths, labels = zip(*self._samples(split), strict=True)
                arrays |= _arrays(split, pool.map(self._read, paths), labels)
        return Images(**arrays)

    def _class_folders(self, split: str) -> set[str]:
        folder = self.root / split
        if not folder.is_dir():
            raise InputError(
                f"root={self.root} must be a folder with train/<class>/* and test/<class>/*; no {split}/ there"
            )
        names = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if len(names) < 2:
            raise InputError(f"root={self.root}: {split}/ must hold a folder for each of two or more classes")
        return names

    def _samples(self, split: str) -> list[tuple[str, int]]:
        from torchvision import datasets

        try:
            return datasets.ImageFolder(self.root / split).samples
        except OSError as error:  # a class without images is among them
            raise InputError(f"root={self.root}: {one_line(error)}") from error

    def _read(self, path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return grayscale(image, self.image_size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"root: {path} cannot be read as an image ({one_line(error)})") from error


def _arrays(split: str, images: Iterable[np.ndarray], labels: Any) -> dict[str, np.ndarray]:
    return {f"{split}_images": np.stack(list(images)), f"{split}_labels": np.asarray(labels, dtype=np.int64)}


@functools.cache  # the runs of a sweep share a process
def _digits(image_size: int) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0)
    arrays: dict[str, np.ndarray] = {}
    for name, index in (("train", train), ("test", test)):
        resized = (grayscale(Image.fromarray(image), image_size) for image in images[index])
        arrays |= _arrays(name, resized, digits.target[index])
    return Images(**arrays)
