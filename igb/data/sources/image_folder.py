"""Images in a folder for each class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igb._checks import InputError, one_line
from igb.data.images import Images, arrays_of, grayscale
from igb.data.module import ImageData


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
                arrays |= arrays_of(split, pool.map(self._read, paths), labels)
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
