"""Decoded images: what a source returns, and the conversion of one image to gray or colour and to size."""

import functools
import hashlib
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from igb._checks import InputError

PART_BYTES = 1 << 24  # of images that a pass over them holds in memory


@dataclass
class LazyImages:
    """Images [N, C, H, W] of which a part is decoded when it is asked for, so that they need not fit in memory.

    Args:
        items: what `read` makes images of, such as paths.
        read: makes one image, uint8 [C, H, W], or [H, W] in gray; called from several threads.
    """

    items: Sequence[Any] | np.ndarray
    read: Callable[[Any], np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def _image(self, item: Any) -> np.ndarray:
        found = self.read(item)
        return found[None] if found.ndim == 2 else found

    @functools.cached_property
    def _first(self) -> np.ndarray:
        return self._image(self.items[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return (len(self), *self._first.shape)

    @property
    def dtype(self) -> np.dtype:
        """As an array's."""
        return self._first.dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter's lock
            return np.stack(list(pool.map(self._image, self.items[part])))


@dataclass
class Images:
    """A decoded data set: uint8 images [N, C, H, W] and int64 labels [N] of the training and the test split.

    C is 3 in colour and 1 in gray, where an array [N, H, W] means the same.
    """

    train_images: np.ndarray | LazyImages
    train_labels: np.ndarray
    test_images: np.ndarray | LazyImages
    test_labels: np.ndarray


@dataclass
class Summary:
    """What takes a pass over all images.

    Attributes:
        digest: a hash of the images and labels of both splits, independent of where they are stored.
        counts: how often each value occurs in each channel of the training images, int64 [C, 256].
    """

    digest: str
    counts: np.ndarray


def summary(arrays: dict[str, np.ndarray]) -> Summary:
    """The summary of the fields of `Images`, all of them arrays."""
    digest, counts = hashlib.sha256(), np.zeros((arrays["train_images"].shape[1], 256), np.int64)
    for name, array in arrays.items():
        shape = array.shape
        if len(shape) == 4 and shape[1] == 1:  # as it was hashed before there was colour
            shape = (shape[0], *shape[2:])
        digest.update(f"{name} {array.dtype} {shape}\n".encode())
        for part in parts(array):
            digest.update(np.ascontiguousarray(part).data)
            if name == "train_images":
                for rows in np.array_split(part, 64):  # np.bincount makes eight bytes of each
                    counts += [np.bincount(channel.ravel(), minlength=256) for channel in rows.swapaxes(0, 1)]
    return Summary(digest.hexdigest(), counts)


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in parts of a few megabytes; what is mapped from a file is not kept in memory."""
    rows = max(1, PART_BYTES // (array.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
        release(array)


def release(array: np.ndarray) -> None:
    """Give back the memory in which this process holds what it read of a mapped file; the system still caches it."""
    if isinstance(array, np.memmap):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


FITS = ("stretch", "crop")
ORIENTATION = 0x0112  # the tag in EXIF, whose values other than 1 mean:
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def grayscale(image: Image.Image, size: int, fit: str = "stretch") -> np.ndarray:
    """One image as uint8 [size, size], in gray; see `pixels`."""
    return pixels(image, size, fit)[0]


def pixels(image: Image.Image, size: int, fit: str = "stretch", color: bool = False) -> np.ndarray:
    """One image as uint8 [C, size, size]: RGB or ITU-R 601 luma, as `PIL.Image.convert` gives them, then resized.

    Resizing is bilinear. The image is rotated by its EXIF orientation, and transparent parts are laid over black. One
    that is not square is stretched, or cropped to the largest square in its middle (`fit`).
    """
    raw = "".join(str(part) for part in getattr(image, "tile", ()))  # PIL takes 16-bit colour by its higher bytes
    if image.mode.startswith(("I", "F")) or ";16" in raw:  # and would clip others, not scale
        raise ValueError(f"pixels of more than 8 bits, mode {image.mode}; convert it to 8 bits")
    if orientation := UPRIGHT.get(_orientation(image)):
        image = image.transpose(orientation)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("RGB")
    converted = image.convert("RGB" if color else "L")
    if converted.size != (size, size):
        crop = ImageOps.fit if fit == "crop" else Image.Image.resize
        converted = crop(converted, (size, size), Image.Resampling.BILINEAR)
    found = np.asarray(converted)
    return np.ascontiguousarray(found.transpose(2, 0, 1)) if color else found[None]


def _orientation(image: Image.Image) -> Any:
    """As EXIF has it; upright where that is damaged, which PIL raises errors of many types for."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:
        return None


def check_class_names(names: Sequence[str]) -> None:
    """Raise InputError for a name that cannot be written to a file."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"class_names: {name!a} is not valid UTF-8; rename it") from error


def check_split(
    split: str, images: np.ndarray | LazyImages, labels: np.ndarray, class_names: Sequence[str], channels: int
) -> None:
    """Raise InputError unless the images and labels from a source have the right types, shapes and classes."""
    if len(images) == 0 or len(images.shape) != 4 or images.shape[1] != channels or images.dtype != np.uint8:
        shape = "[N, 3, H, W]" if channels == 3 else "[N, H, W] or [N, 1, H, W]"
        raise InputError(
            f"decode: {split} images must be uint8 {shape} with color={str(channels == 3).lower()}; they are "
            f"{images.dtype} {images.shape}"
        )
    if labels.shape != (len(images),) or labels.dtype != np.int64:
        raise InputError(
            f"decode: {split} labels must be int64 [{len(images)}]; they are {labels.dtype} {labels.shape}"
        )
    present, classes = set(labels.tolist()), range(len(class_names))
    if not present <= set(classes):
        raise InputError(
            f"decode: {split} labels must be between 0 and {len(classes) - 1} for {len(classes)} class names"
        )
    for k in sorted(set(classes) - present):
        raise InputError(f"class_names: the {split} split has no image of class {class_names[k]!r}")


def fields_of(
    split: str, items: Sequence[Any] | np.ndarray, read: Callable[[Any], np.ndarray], labels: Any
) -> dict[str, Any]:
    """The fields of `Images` for one split, whose images `read` makes of items."""
    return {f"{split}_images": LazyImages(items, read), f"{split}_labels": np.asarray(labels, dtype=np.int64)}
