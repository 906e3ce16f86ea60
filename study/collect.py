"""The runs of the study's stages, as a CSV file each: a row for each run and batch-norm mode.

`python -m study.collect multirun/study docs/study` reads the sweep of each stage, in the folder of its name.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from igb._checks import InputError
from igb._paths import config_folder
from igb.folder.schema import FINAL
from igb.report.metrics import THRESHOLD, Censored
from igb.report.runs import Run, find_runs
from igb.report.summary import summarize

STAGES = ("losses", "cutoffs", "architectures", "vit", "norms", "adam")
EARLY = 100  # the probe next to this step is shown beside the last one
OF_SUMMARY = (
    "batch_norm", "status", "steps", "favoured_class", "dominant_class", "dominance_start", "dominance_end",
    "weight_start", "drift_ratio_start", "escape_step", "mean_accuracy", "memorised", "recovered",
)  # fmt: skip


def collect(sweeps: Path, folder: Path) -> None:
    """Write the files of all stages that have finished runs in `sweeps` into `folder`.

    Rows of runs that are not there stay as they are, so that a stage can be run in parts and on several machines.
    Raises InputError if there is no stage at all.
    """
    found = [stage for stage in STAGES if (sweeps / stage).is_dir()]
    if not found:
        raise InputError(f"{sweeps} holds none of the stages: {', '.join(STAGES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for stage in found:
        runs = [run for run in find_runs([sweeps / stage])[0] if run.info["status"] in FINAL]
        print(f"{stage}: {len(runs)} runs")
        if runs:
            _write(pd.concat([_rows(run, keys(stage)) for run in runs]), keys(stage), folder / f"{stage}.csv")


def _write(table: pd.DataFrame, swept: list[str], file: Path) -> None:
    """Put rows in place of those of the same runs in a file, or among its others."""
    known = [*map(column, swept), "batch_norm"]
    table = pd.read_csv(io.StringIO(table.to_csv(index=False)))  # values as they are in the file
    if file.exists():
        table = pd.concat([table, pd.read_csv(file)]).drop_duplicates(known)
    table.sort_values(known).to_csv(file, index=False)


def keys(stage: str) -> list[str]:
    """The swept keys of a stage."""
    description = OmegaConf.load(config_folder() / "experiment" / "study" / f"{stage}.yaml")
    return list(OmegaConf.select(description, "hydra.sweeper.params"))


def column(key: str) -> str:
    """The column of a swept key."""
    return key.rsplit(".", 1)[-1]


def _rows(run: Run, swept: list[str]) -> pd.DataFrame:
    """A run's rows of the report's summary, and what it was at initialisation and at the probe next to step EARLY.

    `active_start` is over all images, and an event that had not come is empty.
    """
    rows = []
    # No class has half of the guesses for good where there are but two.
    for _, row in summarize([run], threshold=0.75 if len(run.class_names) == 2 else THRESHOLD).iterrows():
        accuracy, dominance = (run.overall(name, row["batch_norm"]) for name in ("mean_accuracy", "dominance"))
        early = accuracy.index[np.abs(accuracy.index - EARLY).argmin()]
        active, count = (run.table(name, row["batch_norm"]).iloc[0] for name in ("active_fraction", "count"))
        rows.append(
            {column(key): run.value(key) for key in swept}
            | {name: None if isinstance(row.get(name), Censored) else row.get(name) for name in OF_SUMMARY}
            | {
                "active_start": float(np.average(active, weights=count)),
                "dominance_early": dominance[early],
                "accuracy_early": accuracy[early],
                "seconds": run.info.get("wall_seconds"),
                "commit": run.info.get("code", {}).get("igb", {}).get("commit", "")[:9],
            }
        )
    table = pd.DataFrame(rows)
    return table.map(lambda value: float(f"{value:.5g}") if isinstance(value, float) else value)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m study.collect SWEEPS TABLES")
    try:
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        sys.exit(f"igb: {error.filename} cannot be read or written ({error.strerror})")
    except InputError as error:
        sys.exit(f"igb: {error}")
