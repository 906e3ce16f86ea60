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
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    sources: Sequence[type],
    options: Mapping[str, object],
    folder: Path,
    memory: str,
) -> tuple[dict[str, np.ndarray], Summary]:
    """The fields of what `decode` returns, from the cache if no file has changed since, and their summary.

    If several processes start together, one decodes and the others wait.

    Args:
        decode: finds every image; called if the cache does not hold them.
        files: the files that the images come from.
        sources: the class of the source and those it derives from, whose code is part of what the images depend on.
        options: the options of the source that the images depend on.
        folder: the cache's folder; InputError if it cannot be written, or has no room for the images.
        memory: `map` gives images mapped from their files; so does `auto`, if they are large. Else arrays in memory.
    """
    kind = sources[0].__name__.lower()
    key = f"{sources[0].__module__} {sorted((name, str(value)) for name, value in options.items())}"
    entry = folder / f"{kind}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}"
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        is_locked = _lock(entry.with_name(f"{entry.name}.lock"), stack)
        origin = {"version": VERSION, "fingerprint": _fingerprint(sources, files)}
        found = _read(entry, origin, memory)
        if found is None and is_locked:
            _write(entry, origin, decode())
        elif found is None:  # each process in a folder of its own, the first of which becomes that of all
            own = entry.with_name(f"{entry.name}.{socket.gethostname()}.{os.getpid()}")
            _write(own, origin, decode())
            if _read(entry, origin, memory) is None:
                with _writing(folder):
                    shutil.rmtree(entry, ignore_errors=True)
                    own.rename(entry)
            else:
                shutil.rmtree(own, ignore_errors=True)
        found = found or _read(entry, origin, memory)
        assert found is not None
    return found


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name the cache's folder in an error of the disk."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cache_dir={folder} cannot be written ({error})") from error


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Hold a lock until the stack ends; whether that can be."""
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            log.info("waiting for another process that holds %s while it decodes the same images", path)
            lock.acquire()
        stack.callback(lock.release)
        return True
    except (OSError, NotImplementedError) as error:  # a file system without locks
        log.warning("%s cannot be locked (%s); runs that start together each decode the images", path, error)
        return False


def _fingerprint(sources: Sequence[type], files: Sequence[str | Path]) -> str:
    """A hash that changes with the code of the source, and the path, size or time of any of the files."""
    digest = hashlib.sha256(inspect.getsource(images_module).encode())
    for source in sources:
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
        with _writing(entry.parent):
            shutil.rmtree(entry, ignore_errors=True)
            entry.mkdir(exist_ok=True)  # a network file system may keep what another process has mapped
            for name in NAMES:
                _file(entry, name).unlink(missing_ok=True)
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
            _append(_file(entry, name), array, bar if name.endswith("images") else None)
    seconds = time.perf_counter() - started
    log.info("decoded them in %.0f s", seconds)
    found = summary({name: _load(entry, name, mapped=name.endswith("images")) for name in NAMES})
    with _writing(entry.parent):
        _write_info(entry, origin | {"images": found.digest, "counts": found.counts.tolist()})


def _append(path: Path, array: np.ndarray | LazyImages, bar: Any) -> None:
    """Append to an .npy file the rows that it lacks, and the last ones, of which a lost node may have kept nothing."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, description)
    row, start = array.dtype.itemsize * math.prod(array.shape[1:]), len(header.getvalue())
    folder = path.parent.parent
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            stream = stack.enter_context(open(path, "ab+"))
            stream.seek(0)
            is_begun = stream.read(start) == header.getvalue()
            written = (path.stat().st_size - start) // row if is_begun else 0
            done = max(0, written - 1) // DECODED * DECODED
            stream.truncate(start + done * row if is_begun else 0)
            if not is_begun:
                stream.write(header.getvalue())
        if bar is not None:
            if not bar.disable:
                bar.initial += done  # for the speed that it shows
            bar.update(done)
        size = DECODED if isinstance(array, LazyImages) else len(array)  # what is decoded is written at once
        for first in range(done, len(array), size):
            part = np.ascontiguousarray(array[first : first + size])
            with _writing(folder):
                stream.write(part.data)
                stream.flush()
                os.fsync(stream.fileno())
            if bar is not None:
                bar.update(len(part))


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
