"""The digits of scikit-learn, which need no download."""

import functools

import numpy as np
from PIL import Image

from igb.data.images import Images, fields_of, pixels
from igb.data.module import ImageData


class Digits(ImageData):
    """scikit-learn's 1,797 scanned handwritten digits, resized; 1,437 to train and 360 to test, split by class.

    Needs no download. The originals are 8 x 8 pixels of 17 gray levels (E. Alpaydin, C. Kaynak, 1998).
    """

    class_names = tuple("0123456789")

    def decode(self) -> Images:
        """Take the digits from scikit-learn and split them."""
        return _digits(self.image_size, self.color)


@functools.cache  # the runs of a sweep share a process
def _digits(image_size: int, color: bool) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0)

    def read(image: np.ndarray) -> np.ndarray:
        return pixels(Image.fromarray(image), image_size, color=color)

    return Images(
        **fields_of("train", images[train], read, digits.target[train]),
        **fields_of("test", images[test], read, digits.target[test]),
    )
