"""Reading the two C x C matrices of every probe of a run."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igb._checks import InputError, one_line
from igb.folder.schema import MATRICES, matrices_path, old_matrices_path
from igb.report.runs import read_run


@dataclass(frozen=True)
class Matrices:
    """The matrices of P probes and views of a run, in the order of metrics.csv.

    `probability[p, k, j]` is the mean probability of class j over the images of class k, `prediction[p, k, j]` the
    share of them that is predicted as j: arrays of zarr, which read from the disk what they are indexed with, in
    float32 (of 256 and more classes rounded to 15 significant bits). Of runs of schema 2 and older they are numpy's,
    in float64. NaN where a run had `probe.matrices=false`.
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
        arrays = _old_arrays(path) if is_old else _arrays(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error) if path.exists() else "it is missing; was the run made with probe.matrices=false?"
        raise InputError(f"{path} cannot be read: {reason}") from error
    count = min(len(probes), *(array.shape[0] for array in arrays))  # they are written one after the other
    step, split, batch_norm = (probes[name].to_numpy()[:count] for name in ("step", "split", "batch_norm"))
    probability, prediction = (array if array.shape[0] == count else array[:count] for array in arrays)
    return Matrices(step, np.asarray(split, str), np.asarray(batch_norm, str), probability, prediction)


def _arrays(path: Path) -> list[Any]:
    import zarr  # which takes a while to import

    group = zarr.open_group(path, mode="r")
    return [group[name] for name in MATRICES]


def _old_arrays(path: Path) -> list[Any]:
    with open(path, "rb") as stream, np.load(stream) as file:
        return [file[name] for name in MATRICES]
