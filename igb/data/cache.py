"""A cache of decoded images on disk, valid until the files they come from change."""

import contextlib
import hashlib
import inspect
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import filelock
import numpy as np

from igb._checks import InputError
from igb._files import replacing
from igb.data import images
from igb.data.images import Images

log = logging.getLogger(__name__)


def cached(
    decode: Callable[[], Images], files: Sequence[str | Path], source: type, options: Mapping[str, object], folder: Path
) -> Images:
    """The images that `decode` returns, from the cache if no file has changed since.

    If several processes start together, one decodes and the others wait.

    Args:
        decode: reads every image.
        files: the files that the images come from.
        source: the class of the source, whose code is part of what the images depend on.
        options: the options of the source that the images depend on.
        folder: the cache's folder; InputError if it cannot be written.
    """
    kind = source.__name__.lower()
    key = f"{source.__module__} {sorted((name, str(value)) for name, value in options.items())}"
    cache = folder / f"{kind}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}.npz"
    lock = folder / f"{kind}.lock"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(f"cache_dir={folder} cannot be written ({error})") from error
        try:
            stack.enter_context(filelock.FileLock(lock))
        except (OSError, NotImplementedError) as error:  # a file system without locks
            log.warning("%s cannot be locked (%s); runs that start together each decode the images", lock, error)
        fingerprint = _fingerprint(source, files)
        found = _read_cache(cache, fingerprint)
        if found is None:
            found = decode()
            _write_cache(cache, fingerprint, found)
    return found


def _fingerprint(source: type, files: Sequence[str | Path]) -> str:
    """A hash that changes with the code of the source, and the path, size or time of any of the files."""
    digest = hashlib.sha256(inspect.getsource(images).encode())
    with contextlib.suppress(OSError, TypeError):  # a class without a file, as in a notebook
        digest.update(inspect.getsource(source).encode())
    for file in files:
        try:
            stat = os.stat(file)  # noqa: PTH116  (60,000 Path objects would take as long as all else)
        except OSError as error:
            raise InputError(f"root: {file} cannot be read ({error.strerror})") from error
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_cache(cache: Path, fingerprint: str) -> Images | None:
    """The images in `cache`, or None if it is missing, stale or damaged."""
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*damage), open(cache, "rb") as stream, np.load(stream) as arrays:
        if str(arrays["fingerprint"]) == fingerprint:
            return Images(**{field.name: arrays[field.name] for field in fields(Images)})
    return None


def _write_cache(cache: Path, fingerprint: str, decoded: Images) -> None:
    try:
        with replacing(cache) as partial, open(partial, "wb") as stream:
            np.savez(stream, fingerprint=np.array(fingerprint), **vars(decoded))
    except OSError as error:
        raise InputError(f"cache_dir={cache.parent} cannot be written ({error})") from error
