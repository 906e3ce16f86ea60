"""A cache of decoded images on disk, valid until the files they come from change.

It is a folder for each source with its options: an .npy file for each field of `Images`, and cache.json, which says
what they were made from and, once they are whole, their summary. Images are appended as they are decoded, so that a
process that was killed meanwhile is gone on from.
"""

import contextlib
import hashlib
import inspect
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from tqdm import tqdm

from igb._checks import InputError
from igb._files import replace, sync
from igb.data import images as images_module
from igb.data.images import Images, LazyImages, Summary, summary

VERSION = 1  # of the files
NAMES = tuple(field.name for field in fields(Images))
DECODED = 256  # images at once
MEMORY_BYTES = 2 << 30  # of images that `memory=auto` holds in memory; more it maps

log = logging.getLogger(__name__)


def cached(
    decode: Callable[[], Images],
    files: Sequence[str | Path],
    source: type,
    options: Mapping[str, object],
    folder: Path,
    memory: str,
) -> tuple[dict[str, np.ndarray], Summary]:
    """The fields of what `decode` returns, from the cache if no file has changed since, and their summary.

    If several processes start together, one decodes and the others wait.

    Args:
        decode: finds every image; called if the cache does not hold them.
        files: the files that the images come from.
        source: the class of the source, whose code is part of what the images depend on.
        options: the options of the source that the images depend on.
        folder: the cache's folder; InputError if it cannot be written, or has no room for the images.
        memory: `map` gives images mapped from their files; so does `auto`, if they are large. Else arrays in memory.
    """
    kind = source.__name__.lower()
    key = f"{source.__module__} {sorted((name, str(value)) for name, value in options.items())}"
    entry = folder / f"{kind}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(f"cache_dir={folder} cannot be written ({error})") from error
        _lock(entry.with_name(f"{entry.name}.lock"), stack)
        origin = {"version": VERSION, "fingerprint": _fingerprint(source, files)}
        found = _read(entry, origin, memory)
        if found is None:
            try:
                _write(entry, origin, decode())
            except OSError as error:
                raise InputError(f"cache_dir={folder} cannot be written ({error})") from error
            found = _read(entry, origin, memory)
            assert found is not None
    return found


def _lock(path: Path, stack: contextlib.ExitStack) -> None:
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            log.info("waiting for another process that holds %s while it decodes the same images", path)
            lock.acquire()
        stack.callback(lock.release)
    except (OSError, NotImplementedError) as error:  # a file system without locks
        log.warning("%s cannot be locked (%s); runs that start together each decode the images", path, error)


def _fingerprint(source: type, files: Sequence[str | Path]) -> str:
    """A hash that changes with the code of the source, and the path, size or time of any of the files."""
    digest = hashlib.sha256(inspect.getsource(images_module).encode())
    with contextlib.suppress(OSError, TypeError):  # a class without a file, as in a notebook
        digest.update(inspect.getsource(source).encode())
    for file in files:
        try:
            stat = os.stat(file)  # noqa: PTH116  (60,000 Path objects would take as long as all else)
        except OSError as error:
            raise InputError(f"root: {file} cannot be read ({error.strerror})") from error
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(entry: Path, origin: dict[str, Any], memory: str) -> tuple[dict[str, np.ndarray], Summary] | None:
    """What a folder of the cache holds; None if it is missing, stale or damaged."""
    info = _info(entry)
    if "images" not in info or {name: info.get(name) for name in origin} != origin:
        return None
    try:
        sizes = [_file(entry, name).stat().st_size for name in NAMES]
        mapped = memory == "map" or (memory == "auto" and sum(sizes) > MEMORY_BYTES)
        arrays = {name: _load(entry, name, mapped and name.endswith("images")) for name in NAMES}
        if mapped:  # to look for damage would take as long as to read it all
            return arrays, Summary(str(info["images"]), np.array(info["counts"], np.int64))
        found = summary(arrays)
        if found.digest == info["images"]:
            return arrays, found
    except (OSError, ValueError, KeyError, EOFError):
        pass
    log.warning("%s is damaged; decoding its images again", entry)
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _load(entry: Path, name: str, mapped: bool) -> np.ndarray:
    array: np.ndarray = np.load(_file(entry, name), mmap_mode="c" if mapped else None)  # torch wants it writable
    return array


def _write(entry: Path, origin: dict[str, Any], decoded: Images) -> None:
    """Decode what is not decoded yet, and sum it up; InputError if there is no room for it."""
    if _info(entry) != origin:
        shutil.rmtree(entry, ignore_errors=True)
        entry.mkdir()
        _write_info(entry, origin)
    arrays: dict[str, np.ndarray | LazyImages] = vars(decoded)
    needed = sum(array.dtype.itemsize * math.prod(array.shape) for array in arrays.values())
    needed -= sum(file.stat().st_size for file in entry.glob("*.npy"))
    if needed > (free := shutil.disk_usage(entry).free):
        raise InputError(
            f"cache_dir={entry.parent} has {free / 1e9:.2f} GB left, but the decoded images take {needed / 1e9:.2f} GB"
        )
    count, started = len(decoded.train_images) + len(decoded.test_images), time.perf_counter()
    log.info("decoding %s images into %s", f"{count:,}", entry)
    with tqdm(total=count, desc="decoding", unit=" images", disable=not sys.stderr.isatty(), leave=False) as bar:
        for name, array in arrays.items():
            _append(_file(entry, name), array, bar.update if name.endswith("images") else _ignore)
    seconds = time.perf_counter() - started
    log.info("decoded them in %.0f s", seconds)
    found = summary({name: _load(entry, name, mapped=name.endswith("images")) for name in NAMES})
    for name in NAMES:
        sync(_file(entry, name))
    _write_info(entry, origin | {"images": found.digest, "counts": found.counts.tolist()})


def _append(path: Path, array: np.ndarray | LazyImages, update: Callable[[int], object]) -> None:
    """Append to an .npy file the rows that it lacks."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, description)
    row, start = array.dtype.itemsize * math.prod(array.shape[1:]), len(header.getvalue())
    with open(path, "ab+") as stream:
        stream.seek(0)
        is_begun = stream.read(start) == header.getvalue()
        done = (path.stat().st_size - start) // row if is_begun else 0
        stream.truncate(start + done * row if is_begun else 0)
        if not is_begun:
            stream.write(header.getvalue())
        update(done)
        for first in range(done, len(array), DECODED):
            part = array[first : first + DECODED]
            stream.write(np.ascontiguousarray(part).data)
            update(len(part))


def _ignore(count: int) -> None:
    """Show no progress."""


def _file(entry: Path, name: str) -> Path:
    return entry / f"{name}.npy"


def _info(entry: Path) -> dict[str, Any]:
    """What cache.json says; nothing if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        info = json.loads((entry / "cache.json").read_text(encoding="utf-8"))
        return info if isinstance(info, dict) else {}
    return {}


def _write_info(entry: Path, info: dict[str, Any]) -> None:
    replace(entry / "cache.json", json.dumps(info).encode())
    sync(entry / "cache.json")
    sync(entry)
