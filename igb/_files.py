"""Files and folders written so that what is there is always whole."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igb._checks import InputError

NEEDED = 1 << 16  # bytes that a folder must have room for, lest the first lines of a run find the disk full


def make_folder(folder: Path, *, exclusively: bool) -> Path:
    """Make a folder that can be written, and return it; InputError if that cannot be.

    `exclusively` makes a new one, with a number at its end if the name is taken.
    """
    wanted = folder
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=not exclusively)
            try:
                (folder / ".writable").write_bytes(bytes(NEEDED))
            finally:
                (folder / ".writable").unlink(missing_ok=True)
            break
        except OSError as error:
            taken = isinstance(error, FileExistsError) and folder.is_dir()
            if not (exclusively and taken):
                raise InputError(f"the output folder {folder} cannot be written ({error.strerror})") from error
            folder = wanted.with_name(f"{wanted.name}_{number}")
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to; when it is whole it takes the place of `path`, and if it does not become so it goes."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, lest a rename outlive what it names when a node is lost."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
