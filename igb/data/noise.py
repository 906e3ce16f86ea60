"""The config group `noise`: wrong labels for a part of the training images.

They are drawn after decoding, from a seed of their own, so that all kinds and rates share a cache. Test labels stay.
"""

import codecs
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igb import _batches, _checks
from igb._checks import InputError, one_line
from igb.data.module import ImageData

# The pairs of G. Patrini et al., "Making Deep Neural Networks Robust to Label Noise", arXiv 1609.03683.
CIFAR10_PAIRS = {
    "truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat",
}  # fmt: skip
MNIST_PAIRS = {"2": "7", "3": "8", "5": "6", "6": "5", "7": "1"}
# Of J. Wei et al., "Learning with Noisy Labels Revisited", arXiv 2110.12088.
HUMAN_LABELS = ("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")
HUMAN_URL = "https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/CIFAR-10_human.pt"
HUMAN_ORIGIN = "CIFAR-10_human.pt from github.com/UCSC-REAL/cifar-10-100n, licence CC BY-NC 4.0"


class LabelNoise(ABC):
    """Gives a part of the images of each class, exactly round(rate times their number), the label of another class.

    Args:
        rate: the part, between 0 and 1.
    """

    def __init__(self, rate: float = 0.4) -> None:
        self.rate = _checks.number("rate", rate, at_least=0, at_most=1)

    def check(self, data: ImageData) -> None:  # noqa: B027  (most kinds are for all classes)
        """Raise InputError if this kind of noise cannot be for these data; no image is read for it."""

    def labels(self, data: ImageData, seed: int) -> Tensor:
        """The given labels, int64 [N], of all training images; `data` are loaded and have the true ones."""
        generator = torch.Generator().manual_seed(_stream(seed))
        given = data.train_labels.clone()
        for k in range(len(data.classes)):
            members = data.kept[data.train_labels[data.kept] == k]
            chosen = members[self._chosen(len(members), round(self.rate * len(members)), generator)]
            given[chosen] = self._others(data, chosen, k, generator)
        return given

    def _chosen(self, available: int, count: int, generator: torch.Generator) -> Tensor:
        """Which of the images of a class get a wrong label."""
        return torch.randperm(available, generator=generator)[:count]

    @abstractmethod
    def _others(self, data: ImageData, chosen: Tensor, k: int, generator: torch.Generator) -> Tensor | int:
        """The wrong labels of the chosen images of class k."""


class Symmetric(LabelNoise):
    """Every other class alike."""

    def _others(self, data: ImageData, chosen: Tensor, k: int, generator: torch.Generator) -> Tensor:
        classes = len(data.classes)
        return (k + 1 + torch.randint(classes - 1, (len(chosen),), generator=generator)) % classes


class Pairflip(LabelNoise):
    """The next class, and the first for the last (B. Han et al., "Co-teaching", arXiv 1804.06872)."""

    def _others(self, data: ImageData, chosen: Tensor, k: int, generator: torch.Generator) -> int:
        return (k + 1) % len(data.classes)


class Asymmetric(LabelNoise):
    """A similar class, for those of CIFAR-10 and of MNIST that have one; other classes keep their labels.

    The pairs are those of G. Patrini et al., arXiv 1609.03683: truck to automobile, bird to airplane, deer to horse,
    cat to dog and back; 2 to 7, 3 to 8, 5 to 6 and back, 7 to 1, for any data whose classes have these names.
    """

    def check(self, data: ImageData) -> None:
        """Raise InputError for classes without published pairs."""
        self._pairs(data.classes)

    def _pairs(self, class_names: Sequence[str]) -> dict[str, str]:
        for pairs in (CIFAR10_PAIRS, MNIST_PAIRS):
            if {*pairs, *pairs.values()} <= set(class_names):
                return pairs
        raise InputError(
            "noise=asymmetric has pairs for the classes of CIFAR-10 and of MNIST alone; use noise=pairflip"
        )

    def _others(self, data: ImageData, chosen: Tensor, k: int, generator: torch.Generator) -> int:
        names = list(data.classes)
        return names.index(self._pairs(names).get(names[k], names[k]))


class Instance(LabelNoise):
    """Noise that depends on the image (X. Xia et al., "Part-dependent Label Noise", arXiv 2006.07836).

    Each image has a rate of its own, normal about `rate` with deviation 0.1 and truncated at 0 and 1, by which it is
    chosen, and its wrong label is drawn from the softmax, over the other classes, of its pixels times a matrix of
    normal numbers, one for each class. Pixels are standardised by the mean and deviation of each channel over all
    training images. The authors draw how many images of a class are wrong; here that is exact.
    """

    def _chosen(self, available: int, count: int, generator: torch.Generator) -> Tensor:
        low, high = (torch.special.ndtr(torch.tensor((end - self.rate) / 0.1, dtype=torch.float64)) for end in (0, 1))
        uniform = torch.rand(available, generator=generator, dtype=torch.float64)
        rates = (self.rate + 0.1 * torch.special.ndtri(low + (high - low) * uniform)).clamp(1e-12, 1)
        # The smallest of exponential times with these rates: images one by one without replacement, by their rates.
        times = -torch.log1p(-torch.rand(available, generator=generator, dtype=torch.float64)) / rates
        return times.argsort()[:count]

    def _others(self, data: ImageData, chosen: Tensor, k: int, generator: torch.Generator) -> Tensor:
        size = data.train_images[0].numel()
        matrix = torch.randn(size, len(data.classes), generator=generator)
        found = []
        for part in _batches.split(chosen, 500) if len(chosen) else ():
            scores = data.standardised(data.train_images[part]).flatten(1) @ matrix
            scores[:, k] = -torch.inf
            found.append(torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0])
        data.release()
        return torch.cat(found) if found else chosen


class Human:
    """The labels that people gave the training images of CIFAR-10 (J. Wei et al., arXiv 2110.12088).

    Args:
        path: the authors' file, CIFAR-10_human.pt; by default it is downloaded into the cache folder of the data. It is
            no part of igb, for its licence is CC BY-NC 4.0.
        labels: which of its labels: `aggre_label`, `random_label1` to `random_label3`, or `worse_label`.
    """

    def __init__(self, path: str | Path | None = None, labels: str = "worse_label") -> None:
        self.path = None if path is None else Path(str(path)).expanduser()
        self.name = _checks.choice("labels", labels, HUMAN_LABELS)
        if self.path is not None and not self.path.is_file():
            raise InputError(f"path={path} is not a file; it should be {HUMAN_ORIGIN}")

    def check(self, data: ImageData) -> None:
        """Download the file where it is needed; InputError if that fails."""
        if self.path is not None:
            return
        path = data.cache_dir / "cifar10n" / "CIFAR-10_human.pt"
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    whole = Path(folder) / path.name
                    torch.hub.download_url_to_file(HUMAN_URL, str(whole), progress=False)
                    _arrays(whole, HUMAN_LABELS)  # it may be cut off, or the page of a portal
                    whole.replace(path)
            except (OSError, HTTPException, InputError) as error:
                raise InputError(
                    f"noise.path=null, and {HUMAN_URL} could not be downloaded ({one_line(error)}); "
                    f"set it to where you have {HUMAN_ORIGIN}"
                ) from error
        self.path = path

    def labels(self, data: ImageData, seed: int) -> Tensor:
        """The labels, int64 [N]; InputError if the file is not about these images in this order."""
        self.check(data)
        assert self.path is not None
        true, given = _arrays(self.path, ("clean_label", self.name))
        if len(true) != len(data.train_labels) or len(given) != len(true):
            raise InputError(f"path={self.path} has {len(given)} labels, but there are {len(data.train_labels)} images")
        if not torch.equal(true, data.train_labels):
            raise InputError(f"path={self.path} has the labels in another order than the images; use data=cifar10")
        if given.min() < 0 or given.max() >= len(data.classes):
            raise InputError(f"path={self.path} has labels that are no classes")
        return given


def _arrays(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Arrays of a file by their names, int64 [N]; InputError if it has not these."""
    try:
        with torch.serialization.safe_globals(_of_arrays()):
            entries = torch.load(path, weights_only=True)
        return [torch.as_tensor(np.asarray(entries[name])).long() for name in names]
    except Exception as error:  # of many types, from a file that may hold anything
        reason = f"cannot be read as arrays of numbers named {' and '.join(names)}; it should be {HUMAN_ORIGIN}"
        raise InputError(f"path={path} {reason}") from error


def _of_arrays() -> list[Any]:
    """What a file of numpy arrays may call when it is read: nothing but what makes arrays of numbers."""
    reconstruct = np.zeros(0).__reduce__()[0]
    former = (reconstruct, "numpy.core.multiarray._reconstruct")  # its name in numpy 1
    numbers = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]]
    return [np.ndarray, np.dtype, *numbers, reconstruct, former, (codecs.encode, "_codecs.encode")]


def _stream(seed: int) -> int:
    """A seed that neither weights nor the order of the images are drawn from."""
    return int(np.random.SeedSequence([seed, 0x6E6F697365]).generate_state(1, np.uint64)[0] >> np.uint64(1))
