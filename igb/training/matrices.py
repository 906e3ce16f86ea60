"""The two C x C matrices of every probe, on disk: matrices.zarr.

It is a group of the Zarr format, version 2, which zarr, xarray and others read: two arrays, `probability` and
`prediction`, float32 [P, C, C], whose entry p is that of the p-th probe and view in metrics.csv. To append to an array
takes zarr itself several milliseconds, longer than a step of a small network, so the few files are written here. To
replace a file takes 0.2 ms, so it is done once a chunk and checkpoint; until then probes are in matrices.tail, one
after the other.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
from numcodecs import BitRound, Blosc

from igb._checks import InputError, one_line
from igb._files import replace, sync
from igb.folder.schema import MATRICES, matrices_path, old_matrices_path, tail_path, tail_type

CHUNK_PROBES, CHUNK_VALUES = 64, 1 << 17  # the most in a chunk, of each array; one probe at least
# With many classes the last bits, noise that no compressor can shrink, are rounded away: an error of 2^-15 at most,
# relative to the value (M. Klöwer et al., "Compressing atmospheric data into its real information content", 2021).
MANY_CLASSES, MANTISSA_BITS = 256, 14
CACHED = 1 << 16  # values that a cache holds, which are rounded faster than if memory were fetched for all of them
COMPRESSOR = Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


class MatrixStore:
    """The matrices of a run. `igb.load_matrices` finds every probe, also while it runs and after it was killed.

    It is a context manager: until it is entered, it leaves the files as they are.

    Args:
        folder: the run's folder.
        num_classes: C.
        kept: the probes and views to keep, 0 for a new run.
        written: how many of them were on disk when the checkpoint was written. InputError if fewer are.
    """

    def __init__(self, folder: Path, num_classes: int, kept: int = 0, written: int = 0) -> None:
        self._path, self._tail_path, self._old_path = (
            matrices_path(folder),
            tail_path(folder),
            old_matrices_path(folder),
        )
        self._classes, self._kept = num_classes, kept
        self._chunk = max(1, min(CHUNK_PROBES, CHUNK_VALUES // num_classes**2))
        self._rounding = BitRound(MANTISSA_BITS) if num_classes >= MANY_CLASSES else None
        self._old: list[np.ndarray] = []  # the matrices of a run of schema 2 or older
        self._tail = np.zeros(1, np.dtype(tail_type(num_classes)))
        self._number: int | None = None  # of the chunk in memory
        shape = (self._chunk, num_classes, num_classes)
        self._arrays = [np.full(shape, np.nan, dtype="<f4") for _ in MATRICES]
        self._unsynced: set[Path] = set()
        path = self._old_path if self._old_path.exists() else self._path
        try:
            self.written = self._read(kept) if kept and path.exists() else 0
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} does not have what it had when its checkpoint was written ({one_line(error)}); "
                f"remove {folder} to start from scratch"
            ) from error
        if self.written < written:
            what = "is shorter than" if path.exists() else "is missing, unlike"
            raise InputError(f"{path} {what} when its checkpoint was written; remove {folder} to start from scratch")

    def __enter__(self) -> "MatrixStore":
        self._file = open(self._tail_path, "wb")  # what it has is later than what is kept
        if self._old or not self.written:
            shutil.rmtree(self._path, ignore_errors=True)
            self._end = self.written = 0
            for place, matrices in enumerate(zip(*self._old, strict=True)):
                self.write(place, *matrices)
            self.sync()
            self._old = []
            self._old_path.unlink(missing_ok=True)
        else:
            self._end = self.written
            self._write_metadata(self.written)
            for name in MATRICES:
                for file in (self._path / name).glob("*.0.0"):
                    if int(file.name.partition(".")[0]) * self._chunk >= self.written:
                        file.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self.sync()
        self._tail_path.unlink()

    def write(self, place: int, probability: np.ndarray, prediction: np.ndarray) -> None:
        """Write the matrices [C, C] of the probe and view at a place, counted from 0, of metrics.csv."""
        if not self._path.exists():
            self._create()
        number, row = divmod(place, self._chunk)
        if number != self._number:
            self._write_chunk()
            self._number = number
            for array in self._arrays:
                array[:row] = array[row + 1 :] = np.nan
        self._end = place + 1
        for array, matrix in zip(self._arrays, (probability, prediction), strict=True):
            array[row] = matrix
        if row == self._chunk - 1:
            self._write_chunk()
        else:
            self._tail["place"] = place
            for name, array in zip(MATRICES, self._arrays, strict=True):
                self._tail[name] = array[row]
            self._file.write(self._tail.tobytes())
            self._file.flush()  # at once, whole or with an error, which an unbuffered file does not promise

    def _create(self) -> None:
        """Make the group with two arrays of no probe, so that readers find all of it or nothing."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        files = {".zgroup": b'{"zarr_format": 2}'} | {f"{name}/.zarray": self._metadata(name, 0) for name in MATRICES}
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        partial.replace(self._path)
        self._unsynced |= {self._path / name for name in files}

    def _write_chunk(self) -> None:
        """Write the chunk in memory, and empty the tail."""
        if self._end == self.written:
            return
        for name, array in zip(MATRICES, self._arrays, strict=True):
            if self._rounding and name == "probability":
                values = array.reshape(-1)
                for part in np.split(values, range(CACHED, len(values), CACHED)):
                    part[:] = self._rounding.encode(part).view(part.dtype)
            self._replace(self._path / name / f"{self._number}.0.0", COMPRESSOR.encode(array))
        self._write_metadata(self._end)
        self._file.truncate(0)
        self._file.seek(0)

    def sync(self) -> int:
        """Write what is in memory, flush the files to the disk, and return the number of probes and views in them."""
        self._write_chunk()
        for path in self._unsynced:
            sync(path)
        for folder in {path.parent for path in self._unsynced} | {self._path.parent}:
            sync(folder)
        self._unsynced.clear()
        return self.written

    def _read(self, kept: int) -> int:
        """Read what is needed to go on; return how many of the `kept` probes are on disk."""
        if self._old_path.exists():
            with open(self._old_path, "rb") as stream, np.load(stream) as arrays:
                self._old = [arrays[name][:kept] for name in MATRICES]
            return min(map(len, self._old))
        sizes = [json.loads((self._path / name / ".zarray").read_text())["shape"][0] for name in MATRICES]
        written = min(kept, *sizes)
        self._number, rows = divmod(written, self._chunk)
        for name, array in zip(MATRICES, self._arrays, strict=True):
            file = self._path / name / f"{self._number}.0.0"
            if rows and file.exists():
                found = np.frombuffer(COMPRESSOR.decode(file.read_bytes()), dtype="<f4")
                array[:rows] = found.reshape(array.shape)[:rows]
        return written

    def _write_metadata(self, probes: int) -> None:
        for name in MATRICES:
            self._replace(self._path / name / ".zarray", self._metadata(name, probes))
        self.written = probes

    def _metadata(self, name: str, probes: int) -> bytes:
        metadata = {
            "zarr_format": 2,
            "shape": [probes, self._classes, self._classes],
            "chunks": [self._chunk, self._classes, self._classes],
            "dtype": "<f4",
            "compressor": COMPRESSOR.get_config(),
            "filters": [self._rounding.get_config()] if self._rounding and name == "probability" else None,
            "fill_value": "NaN",
            "order": "C",
        }
        return json.dumps(metadata).encode()

    def _replace(self, path: Path, data: bytes) -> None:
        replace(path, data)
        self._unsynced.add(path)
