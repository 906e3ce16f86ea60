"""Writing files and folders so that no reader sees a partial one."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igb._checks import InputError

NEEDED = 1 << 16  # bytes a folder must have room for, so that a full disk shows before a run starts


def make_folder(folder: Path, *, exclusively: bool) -> Path:
    """Make a folder, check that it is writable, and return it; InputError if it is not.

    `exclusively` makes a new one, with a number appended if the name is taken.
    """
    if not _is_utf8(folder):
        raise InputError(f"the output folder {str(folder)!a} must have a name in UTF-8, read as such (PYTHONUTF8=1)")
    wanted = folder
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=not exclusively)
            with tempfile.TemporaryFile(dir=folder) as file:  # without a name that the folder may have already
                file.write(bytes(NEEDED))
            break
        except OSError as error:
            taken = isinstance(error, FileExistsError) and folder.is_dir()
            if not (exclusively and taken):
                raise InputError(f"the output folder {folder} cannot be written ({error.strerror})") from error
            folder = wanted.with_name(f"{wanted.name}_{number}")
    return folder


def _is_utf8(folder: Path) -> bool:
    """Whether libraries that take the name as UTF-8, as TensorBoard's does, find the folder that Python means."""
    name = os.path.abspath(folder)  # noqa: PTH100  (a Path cannot be compared with bytes)
    try:
        return os.fsencode(name) == name.encode()
    except UnicodeEncodeError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` on success, delete it on error."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Replace what a file holds. No reader sees a part of it; `sync` makes it outlast a lost node."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never survives a lost node without its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
