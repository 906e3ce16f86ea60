"""Reading the two C x C matrices of every probe of a run."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igb._checks import InputError, one_line
from igb.folder.schema import MATRICES, matrices_path, old_matrices_path, tail_path, tail_type
from igb.report.runs import read_run


@dataclass(frozen=True)
class Matrices:
    """The matrices of P probes and views of a run, in the order of metrics.csv.

    `probability[p, k, j]` is the mean probability of class j over the images of class k, `prediction[p, k, j]` the
    share of them that is predicted as j. They are float32, with 256 and more classes rounded to 15 significant bits
    (float64 in schema 2 and older), and NaN where the run had `probe.matrices=false`. Those of a finished run are
    arrays of zarr, which read from the disk what they are indexed with; else they are numpy's.
    """

    step: np.ndarray  # int64 [P]
    split: np.ndarray  # str [P]
    batch_norm: np.ndarray  # str [P]
    probability: Any  # [P, C, C]
    prediction: Any

    def __len__(self) -> int:
        return len(self.step)


def load_matrices(folder: str | Path) -> Matrices:
    """The probability and prediction matrices of every probe of the run in a folder, also while it is running.

    Raises InputError if the folder has no run, or no matrices that can be read.
    """
    folder = Path(folder)
    try:
        run = read_run(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {one_line(error)}") from error
    probes = run.metrics.iloc[:: len(run.class_names)]
    is_old = old_matrices_path(folder).exists()
    path = old_matrices_path(folder) if is_old else matrices_path(folder)
    try:
        arrays = _old_arrays(path) if is_old else _arrays(folder, len(run.class_names))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error) if path.exists() else "it is missing; was the run made with probe.matrices=false?"
        raise InputError(f"{path} cannot be read: {reason}") from error
    count = min(len(probes), *(array.shape[0] for array in arrays))  # they are written one after the other
    step, split, batch_norm = (probes[name].to_numpy()[:count] for name in ("step", "split", "batch_norm"))
    probability, prediction = (array if array.shape[0] == count else array[:count] for array in arrays)
    return Matrices(step, np.asarray(split, str), np.asarray(batch_norm, str), probability, prediction)


def _arrays(folder: Path, classes: int) -> list[Any]:
    import zarr  # which takes a while to import

    data = tail_path(folder).read_bytes() if tail_path(folder).exists() else b""  # before it is emptied into the others
    dtype = np.dtype(tail_type(classes))
    tail = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
    arrays: list[Any]
    if len(tail) and not matrices_path(folder).exists():  # as an earlier igb left a run that was killed early
        arrays = [np.empty((0, classes, classes), np.float32) for _ in MATRICES]
    else:
        group: Any = zarr.open_group(matrices_path(folder), mode="r")
        arrays = [group[name] for name in MATRICES]
    # The arrays grow one after the other: a run that is killed in between leaves one shorter.
    tail = tail[tail["place"] >= min(array.shape[0] for array in arrays)]
    if not len(tail):
        return arrays
    count = tail["place"][-1] + 1
    whole = np.full((len(MATRICES), count, classes, classes), np.nan, np.float32)
    for name, array, result in zip(MATRICES, arrays, whole, strict=True):
        kept = array[:count]
        result[: len(kept)] = kept
        result[tail["place"]] = tail[name]
    return list(whole)


def _old_arrays(path: Path) -> list[Any]:
    with open(path, "rb") as stream, np.load(stream) as file:
        return [file[name] for name in MATRICES]
