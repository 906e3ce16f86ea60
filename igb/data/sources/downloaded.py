"""Data sets that torchvision downloads and reads."""

import gzip
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from igb._checks import InputError, one_line
from igb.data.images import Images, fields_of, pixels
from igb.data.module import ImageData

IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")  # the files of a split of MNIST


class Downloaded(ImageData):
    """A data set of `torchvision.datasets`, downloaded on first use.

    Args:
        root: the folder that holds its files as torchvision keeps them; downloaded there if they are not there. By
            default a folder of its name in the cache folder.
        options: see `ImageData`.
    """

    title: ClassVar[str]  # for messages
    class_name: ClassVar[str]  # in `torchvision.datasets`

    def __init__(self, root: str | Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.root = (Path(str(root)).expanduser() if root else self.cache_dir / type(self).__name__.lower()).resolve()

    @abstractmethod
    def paths(self) -> list[Path]:
        """The files that torchvision reads."""

    @abstractmethod
    def source(self) -> tuple[str, str]:
        """The name of a file to put into the folder by hand, and where it is from."""

    def files(self) -> list[Path]:
        """The files that torchvision reads, downloaded if they are not there."""
        files = self.paths()
        if not all(file.exists() for file in files):
            for train in (True, False):
                self._split(train)
        return files

    def decode(self) -> Images:
        """Read the files with torchvision."""
        fields: dict[str, Any] = {}
        for name, train in (("train", True), ("test", False)):
            images, labels = self._split(train)
            fields |= fields_of(name, np.asarray(images), self._pixels, labels)
        return Images(**fields)

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        return pixels(Image.fromarray(image), self.image_size, color=self.color)

    def _split(self, train: bool) -> tuple[Any, Any]:
        """The images, uint8 [N, H, W] or [N, H, W, 3], and the labels [N] of a split; InputError if there are none."""
        try:
            return self.read(train)
        except Exception as error:  # of many types: no network, a wrong checksum, a damaged file
            file, origin = self.source()
            raise InputError(
                f"root={self.root} does not hold {self.title} and it could not be downloaded ({one_line(error)}); "
                f"put {file} (from {origin}) into that folder"
            ) from error

    def read(self, train: bool) -> tuple[Any, Any]:
        """`_split`, with the errors of torchvision."""
        found = self._torchvision(self.root, train=train, download=True)
        return found.data, found.targets

    @property
    def _torchvision(self) -> Any:
        from torchvision import datasets  # which takes a while to import

        return getattr(datasets, self.class_name)


class CIFAR10(Downloaded):
    """CIFAR-10 (A. Krizhevsky, 2009): 50,000 training and 10,000 test images of ten classes."""

    title, class_name = "CIFAR-10", "CIFAR10"
    class_names: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def paths(self) -> list[Path]:
        """The unpacked batch files."""
        source = self._torchvision
        names = [name for name, _ in [*source.train_list, *source.test_list]] + [source.meta["filename"]]
        return [self.root / source.base_folder / name for name in names]

    def source(self) -> tuple[str, str]:
        """The archive."""
        return self._torchvision.filename, self._torchvision.url


class CIFAR100(CIFAR10):
    """CIFAR-100 (A. Krizhevsky, 2009): 50,000 training and 10,000 test images of a hundred classes."""

    title, class_name = "CIFAR-100", "CIFAR100"
    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip


class MNIST(Downloaded):
    """MNIST (Y. LeCun et al., 1998): 60,000 training and 10,000 test images of handwritten digits, in gray."""

    title, class_name = "MNIST", "MNIST"
    class_names: tuple[str, ...] = tuple("0123456789")

    def paths(self) -> list[Path]:
        """The four files, as torchvision unpacks them, or packed in the folder itself, as Debian has Fashion-MNIST."""
        names = [f"{split}-{kind}" for split in ("train", "t10k") for kind in IDX]
        packed = [self.root / f"{name}.gz" for name in names]
        if all(file.exists() for file in packed):
            return packed
        return [self.root / self.class_name / "raw" / name for name in names]

    def source(self) -> tuple[str, str]:
        """The packed files."""
        names = ", ".join(name for name, _ in self._torchvision.resources)
        return names, self._torchvision.mirrors[0]

    def read(self, train: bool) -> tuple[Any, Any]:
        """The images and labels of a split; without torchvision from packed files."""
        images, labels = self.paths()[:2] if train else self.paths()[2:]
        if images.suffix != ".gz":
            return super().read(train)
        with gzip.open(images) as first, gzip.open(labels) as second:
            found = np.frombuffer(first.read(), np.uint8, offset=16), np.frombuffer(second.read(), np.uint8, offset=8)
        return found[0].reshape(-1, 28, 28), found[1]


class FashionMNIST(MNIST):
    """Fashion-MNIST (H. Xiao et al., arXiv 1708.07747): 60,000 training and 10,000 test images of clothes, in gray."""

    title, class_name = "Fashion-MNIST", "FashionMNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip


class SVHN(Downloaded):
    """Street View House Numbers (Y. Netzer et al., 2011): 73,257 training and 26,032 test images of digits."""

    title, class_name = "SVHN", "SVHN"
    class_names = tuple("0123456789")

    def paths(self) -> list[Path]:
        """A file for each split."""
        return [self.root / self._torchvision.split_list[split][1] for split in ("train", "test")]

    def source(self) -> tuple[str, str]:
        """The two files."""
        names = " and ".join(path.name for path in self.paths())
        return names, str(self._torchvision.split_list["train"][0]).rpartition("/")[0]

    def read(self, train: bool) -> tuple[Any, Any]:
        """The images and labels of a split."""
        found = self._torchvision(self.root, split="train" if train else "test", download=True)
        return found.data.transpose(0, 2, 3, 1), found.labels
