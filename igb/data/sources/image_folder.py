"""Images in a folder for each class."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igb import _checks
from igb._checks import InputError, one_line
from igb.data.images import FITS, Images, check_class_names, fields_of, pixels
from igb.data.module import ImageData

# As in `torchvision.datasets.ImageFolder`.
READ = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
ALSO_PICTURES = {".heic", ".heif", ".svg"}  # besides those that PIL knows
LITTER = ("__MACOSX", "Thumbs.db")  # left by programs, as are names with a leading dot

log = logging.getLogger(__name__)


class ImageFolder(ImageData):
    """Images in `root/train/<class>/*` and `root/test/<class>/*`, the layout of `torchvision.datasets.ImageFolder`.

    Where there is no `test`, the images of `val` are the test images.

    Files that programs leave there are skipped: names with a leading dot, `__MACOSX` and `Thumbs.db`. Pictures in
    unsupported formats are skipped too, and counted in one line of the log.

    Args:
        root: the folder with `train` and `test`; both have one folder per class, with the same names.
        fit: what to do with an image that is not square: `stretch` it, or `crop` the largest square in its middle.
        options: see `ImageData`.
    """

    def __init__(self, root: str | Path | None, fit: str = "stretch", **options: Any) -> None:
        super().__init__(**options)
        if root is None:
            raise InputError("root is required: a folder with train/<class>/* and test/<class>/*")
        self.root = Path(str(root)).expanduser().resolve()
        self.fit = _checks.choice("fit", fit, FITS)
        self._folders = {"train": self.root / "train", "test": self.root / "test"}
        if not self._folders["test"].is_dir() and (self.root / "val").is_dir():
            self._folders["test"] = self.root / "val"
        folders = {split: self._class_folders(split) for split in ("train", "test")}
        for name in sorted(folders["train"].keys() ^ folders["test"].keys()):
            split = "test" if name in folders["train"] else "train"
            raise InputError(f"root={self.root}: {self._name(split)} has no folder {name!r}, but the other split has")
        self.class_names = sorted(folders["train"])
        self._listed: dict[str, list[tuple[str, int]]] = {}
        check_class_names(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Load the images once, and forget their paths, which may be a million."""
        super().setup(stage)
        self._listed.clear()

    def files(self) -> list[str]:
        """All image files, class by class."""
        return [path for split in ("train", "test") for path, _ in self._samples(split)]

    def decode(self) -> Images:
        """Read every image file."""
        fields: dict[str, Any] = {}
        for split in ("train", "test"):
            paths, labels = zip(*self._samples(split), strict=True)
            fields |= fields_of(split, paths, self._read, labels)
        return Images(**fields)

    def _class_folders(self, split: str) -> dict[str, str]:
        """The folder of each class by the class's name, which is the folder's name as UTF-8, whatever the locale."""
        folder = self._folders[split]
        if not folder.is_dir():
            raise InputError(
                f"root={self.root} must be a folder with train/<class>/* and test/<class>/*; "
                f"no {self._name(split)} there"
            )
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.is_dir() and not _is_litter(entry.name)]
        if len(found) < 2:
            raise InputError(
                f"root={self.root}: {self._name(split)} must hold a folder for each of two or more classes"
            )
        return {os.fsencode(name).decode("utf-8", "surrogateescape"): str(folder / name) for name in found}

    def _samples(self, split: str) -> list[tuple[str, int]]:
        """The image files of a split, in the order of their classes and names, each with its class; listed once."""
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def _list(self, split: str) -> list[tuple[str, int]]:
        samples: list[tuple[str, int]] = []
        others: Counter[str] = Counter()
        pictures = {*Image.registered_extensions(), *ALSO_PICTURES}
        folders = self._class_folders(split)
        for label, name in enumerate(self.class_names):
            before = len(samples)
            for path in _files(folders[name]):
                ending = os.path.splitext(path)[1].lower()  # noqa: PTH122  (60,000 Path objects would be slow)
                if ending in READ:
                    samples.append((path, label))
                elif ending in pictures:
                    others[ending] += 1
            skipped = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
            if len(samples) == before:
                also = f" (skipped: {skipped})" if others else ""
                raise InputError(
                    f"root={self.root}: {self._name(split)}{name} has no image{also}; "
                    f"supported formats are {', '.join(sorted(READ))}"
                )
        if others:
            log.warning("%s: skipped pictures in unsupported formats: %s", self._folders[split], skipped)
        return samples

    def _name(self, split: str) -> str:
        """The folder of a split, for messages."""
        return f"{self._folders[split].name}/"

    def _read(self, path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return pixels(image, self.image_size, self.fit, self.color)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"root: {path} cannot be read as an image ({one_line(error)})") from error


def _files(folder: str) -> Iterator[str]:
    """The files in a folder and in those within it, in torchvision's order, without those that programs leave there."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_litter(name)]
        found.append((place, names))
    for place, names in sorted(found):
        for name in sorted(names):
            if not _is_litter(name):
                yield os.path.join(place, name)  # noqa: PTH118


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
