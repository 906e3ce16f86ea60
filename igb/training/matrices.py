"""The two C x C matrices of every probe, on disk: matrices.zarr.

It is a group of the Zarr format, version 2, which zarr, xarray and others read: two arrays, `probability` and
`prediction`, float32 [P, C, C], whose entry p is that of the p-th probe and view in metrics.csv. To append to an array
takes zarr itself several milliseconds, longer than a step of a small network, so the few files are written here.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import BitRound, Blosc

from igb._checks import InputError, one_line
from igb._files import replace, sync
from igb.folder.schema import MATRICES, matrices_path, old_matrices_path

# A probe writes its chunk anew, so a chunk is small; it holds one probe at least.
CHUNK_PROBES, CHUNK_VALUES = 64, 1 << 17
# With many classes the last bits, noise that no compressor can shrink, are rounded away: an error of 2^-15 at most,
# relative to the value (M. Klöwer et al., "Compressing atmospheric data into its real information content", 2021).
MANY_CLASSES, MANTISSA_BITS = 256, 14
COMPRESSOR = Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


class MatrixStore:
    """The matrices of a run. Files are replaced whole, so that readers and a killed run find every probe but the last.

    It is a context manager: until it is entered, it leaves the files as they are.

    Args:
        folder: the run's folder.
        num_classes: C.
        kept: the probes and views to keep, 0 for a new run.
        written: how many of them were on disk when the checkpoint was written. InputError if fewer are.
    """

    def __init__(self, folder: Path, num_classes: int, kept: int = 0, written: int = 0) -> None:
        self._path, self._old_path = matrices_path(folder), old_matrices_path(folder)
        self._classes, self._kept = num_classes, kept
        self._chunk = max(1, min(CHUNK_PROBES, CHUNK_VALUES // num_classes**2))
        self._filters = [BitRound(MANTISSA_BITS)] if num_classes >= MANY_CLASSES else []
        self._old: list[np.ndarray] = []  # the matrices of a run of schema 2 or older
        self._number: int | None = None  # of the chunk in memory
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
        if self._old or not self.written:
            shutil.rmtree(self._path, ignore_errors=True)
            self.written = 0
            for place, matrices in enumerate(zip(*self._old, strict=True)):
                self.write(place, *matrices)
            self.sync()
            self._old = []
            self._old_path.unlink(missing_ok=True)
        else:
            self._write_metadata(self.written)
            for name in MATRICES:
                for file in (self._path / name).glob("*.0.0"):
                    if int(file.name.partition(".")[0]) * self._chunk >= self.written:
                        file.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()

    def write(self, place: int, probability: np.ndarray, prediction: np.ndarray) -> None:
        """Write the matrices [C, C] of the probe and view at a place, counted from 0, of metrics.csv."""
        number, row = divmod(place, self._chunk)
        if number != self._number:
            shape = (self._chunk, self._classes, self._classes)
            self._number, self._arrays = number, [np.full(shape, np.nan, dtype="<f4") for _ in MATRICES]
        if not self.written:
            for name in MATRICES:
                (self._path / name).mkdir(parents=True, exist_ok=True)
            self._replace(self._path / ".zgroup", json.dumps({"zarr_format": 2}).encode())
        for name, array, matrix in zip(MATRICES, self._arrays, (probability, prediction), strict=True):
            array[row] = matrix
            data: Any = array
            for codec in (*self._filters, COMPRESSOR):
                data = codec.encode(data)
            self._replace(self._path / name / f"{number}.0.0", data)
        self._write_metadata(place + 1)

    def sync(self) -> int:
        """Flush the files to the disk, and return the number of probes and views in them."""
        for path in self._unsynced:
            sync(path)
        for folder in {path.parent for path in self._unsynced}:
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
        shape = (self._chunk, self._classes, self._classes)
        self._arrays = [np.full(shape, np.nan, dtype="<f4") for _ in MATRICES]
        for name, array in zip(MATRICES, self._arrays, strict=True):
            file = self._path / name / f"{self._number}.0.0"
            if rows and file.exists():
                array[:rows] = np.frombuffer(COMPRESSOR.decode(file.read_bytes()), dtype="<f4").reshape(shape)[:rows]
        return written

    def _write_metadata(self, probes: int) -> None:
        for name in MATRICES:
            metadata = {
                "zarr_format": 2,
                "shape": [probes, self._classes, self._classes],
                "chunks": [self._chunk, self._classes, self._classes],
                "dtype": "<f4",
                "compressor": COMPRESSOR.get_config(),
                "filters": [codec.get_config() for codec in self._filters] or None,
                "fill_value": "NaN",
                "order": "C",
            }
            self._replace(self._path / name / ".zarray", json.dumps(metadata).encode())
        self.written = probes

    def _replace(self, path: Path, data: bytes) -> None:
        replace(path, data)
        self._unsynced.add(path)
