"""CIFAR-10, from the archive of its author."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igb._checks import InputError, one_line
from igb.data.images import Images, arrays_of, pixels
from igb.data.module import ImageData


class CIFAR10(ImageData):
    """CIFAR-10 (A. Krizhevsky, 2009): 50,000 training and 10,000 test images of ten classes.

    Args:
        root: the folder that holds `cifar-10-python.tar.gz` or its unpacked `cifar-10-batches-py`; downloaded there if
            neither exists. By default `cifar10` in the cache folder.
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
            images = (pixels(Image.fromarray(image), self.image_size, color=self.color) for image in split.data)
            arrays |= arrays_of(name, images, split.targets)
        return Images(**arrays)

    def _split(self, train: bool) -> Any:
        from torchvision import datasets

        try:
            return datasets.CIFAR10(self.root, train=train, download=True)
        except (OSError, RuntimeError, EOFError) as error:  # no network, a wrong checksum, an unwritable folder
            raise InputError(
                f"root={self.root} does not hold CIFAR-10 and it could not be downloaded ({one_line(error)}); "
                f"put {datasets.CIFAR10.filename} (from {datasets.CIFAR10.url}) into that folder"
            ) from error
