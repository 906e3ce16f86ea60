"""The runs of the study's stages, as a CSV file each: a row for each run and batch-norm mode.

`python -m study.collect multirun/study docs/study` reads the sweep of each stage, in the folder of its name. A stage
without a folder keeps the file it has.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from igb._checks import InputError
from igb._paths import config_folder
from igb.folder.schema import FINAL
from igb.report.metrics import Censored, escape_step, favoured_order, most_guessed
from igb.report.runs import Run, find_runs
from igb.report.summary import weight_start

STAGES = ("losses", "cutoffs", "architectures", "norms", "adam")
EARLY = 100  # the probe next to this step is shown beside the last one


def collect(sweeps: Path, folder: Path) -> None:
    """Write the files of all stages that have runs in `sweeps` into `folder`.

    Raises InputError if there is none, and, writing nothing more, for fewer finished runs of a stage than its file has.
    """
    found = [stage for stage in STAGES if (sweeps / stage).is_dir()]
    if not found:
        raise InputError(f"{sweeps} holds none of the stages: {', '.join(STAGES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for stage in found:
        runs = [run for run in find_runs([sweeps / stage])[0] if run.info["status"] in FINAL]
        table = pd.DataFrame([_row(run, mode, keys(stage)) for run in runs for mode in run.modes])
        file = folder / f"{stage}.csv"
        if file.exists() and len(pd.read_csv(file)) > len(table):
            raise InputError(f"{sweeps / stage} has fewer finished runs than {file}: collect all of them")
        if len(table):
            table.sort_values([*map(column, keys(stage)), "batch_norm"]).to_csv(file, index=False)
        print(f"{stage}: {len(runs)} runs")


def keys(stage: str) -> list[str]:
    """The swept keys of a stage."""
    description = OmegaConf.load(config_folder() / "experiment" / "study" / f"{stage}.yaml")
    return list(OmegaConf.select(description, "hydra.sweeper.params"))


def column(key: str) -> str:
    """The column of a swept key."""
    return key.rsplit(".", 1)[-1]


def _row(run: Run, mode: str, swept: list[str]) -> dict[str, Any]:
    """Of the probes at initialisation, next to step EARLY and last.

    favoured, dominant: the class most guessed at initialisation, and at the end; dominance: max_j G_j; weight, active:
    over all images; escape_step: as in docs/report.md, empty if the run has not escaped.
    """
    guesses = run.table("guess_fraction", mode)
    accuracy, dominance = run.table("accuracy", mode).mean(axis=1, skipna=False), guesses.max(axis=1, skipna=False)
    order = favoured_order(guesses, run.table("mean_probability", mode))
    early = guesses.index[np.abs(guesses.index - EARLY).argmin()]
    escape = escape_step(guesses)
    active, count = (run.table(name, mode).iloc[0] for name in ("active_fraction", "count"))
    return {column(key): run.value(key) for key in swept} | {
        "batch_norm": mode,
        "status": run.info["status"],
        "steps": guesses.index[-1],
        "favoured": None if order is None else order[0],
        "dominant": most_guessed(guesses.iloc[-1]),
        "dominance_start": _short(dominance.iloc[0]),
        "dominance_early": _short(dominance[early]),
        "dominance_end": _short(dominance.iloc[-1]),
        "weight_start": _short(weight_start(run, mode)),
        "active_start": _short(float(np.average(active, weights=count))),
        "drift_ratio_start": _short(float(run.table("drift_ratio", mode).iloc[0].mean(skipna=False))),
        "escape_step": None if isinstance(escape, Censored) else escape,
        "accuracy_early": _short(accuracy[early]),
        "accuracy_end": _short(accuracy.iloc[-1]),
        "seconds": run.info.get("wall_seconds"),
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m study.collect SWEEPS TABLES")
    try:
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        sys.exit(f"igb: {error.filename} cannot be read or written ({error.strerror})")
    except InputError as error:
        sys.exit(f"igb: {error}")
