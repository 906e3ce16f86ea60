"""Decoded images: what a source returns, and the conversion of one image to gray or colour and to size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from igb._checks import InputError


@dataclass
class Images:
    """A decoded data set: uint8 images [N, C, H, W] and int64 labels [N] of the training and the test split.

    C is 3 in colour and 1 in gray, where [N, H, W] means the same.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


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
    if image.mode.startswith(("I", "F")):  # PIL would clip, not scale
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


def check_split(split: str, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], channels: int) -> None:
    """Raise InputError unless the images and labels from a source have the right types, shapes and classes."""
    if images.ndim != 4 or images.shape[1] != channels or images.dtype != np.uint8 or len(images) == 0:
        shape = "[N, 3, H, W]" if channels == 3 else "[N, H, W] or [N, 1, H, W]"
        raise InputError(
            f"decode: {split} images must be uint8 {shape} with color={str(channels == 3).lower()}; they are "
            f"{images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
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


def arrays_of(split: str, images: Iterable[np.ndarray], labels: Any) -> dict[str, np.ndarray]:
    """The fields of `Images` of one split, from its images and labels."""
    return {f"{split}_images": np.stack(list(images)), f"{split}_labels": np.asarray(labels, dtype=np.int64)}
