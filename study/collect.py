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
from igb._files import replacing
from igb._paths import config_folder
from igb.folder.schema import FINAL
from igb.report.metrics import THRESHOLD, Censored
from igb.report.runs import Run, find_runs
from igb.report.summary import summarize
from reproduction.common import one_line_exit

STAGES = (
    "losses", "cutoffs", "architectures", "vit", "rates", "norms", "dial", "drift", "center", "color", "classes",
    "fashion_mnist", "long_tail", "adam", "noise", "noise_warmup", "remedy_none", "remedy_ce", "remedy_warmup",
    "remedy_ramp", "remedy_rate", "remedy_low_rate", "remedy_calibrate", "remedy_center", "remedy_smooth",
    "remedy_cutoff",
)  # fmt: skip
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
        known = [*map(column, keys(stage)), "batch_norm"]
        if runs:
            _write(pd.concat([_rows(run, keys(stage)) for run in runs]), known, folder / f"{stage}.csv")
        if noisy := [run for run in runs if len(run.table("memorised", run.modes[0]))]:
            classes = pd.concat([_of_classes(run, keys(stage)) for run in noisy])
            _write(classes, [*known, "epoch", "class"], folder / f"{stage}_classes.csv")


def _write(table: pd.DataFrame, known: list[str], file: Path) -> None:
    """Put rows in place of those of the same runs in a file, or among its others."""
    table = pd.read_csv(io.StringIO(table.to_csv(index=False)))  # values as they are in the file
    if file.exists():
        table = pd.concat([table, pd.read_csv(file)]).drop_duplicates(known)
    with replacing(file) as partial:  # rows of other machines are nowhere else
        table.sort_values(known).to_csv(partial, index=False)


def keys(stage: str) -> list[str]:
    """The swept keys of a stage."""
    description = OmegaConf.load(config_folder() / "experiment" / "study" / f"{stage}.yaml")
    return list(OmegaConf.select(description, "hydra.sweeper.params"))


def column(key: str) -> str:
    """The column of a swept key."""
    return key.rsplit(".", 1)[-1]


def _rows(run: Run, swept: list[str]) -> pd.DataFrame:
    """A run's rows of the report's summary, and what it was at initialisation and at the probe next to step EARLY.

    `favoured_early` and `favoured_end` are guess fractions of the favoured class, `active_start` is over all images,
    and an event that had not come is empty.
    """
    rows = []
    # No class has half of the guesses for good where there are but two.
    for _, row in summarize([run], threshold=0.75 if len(run.class_names) == 2 else THRESHOLD).iterrows():
        accuracy, dominance = (run.overall(name, row["batch_norm"]) for name in ("mean_accuracy", "dominance"))
        early = accuracy.index[np.abs(accuracy.index - EARLY).argmin()]
        guesses = run.table("guess_fraction", row["batch_norm"])
        favoured = dict(zip(run.class_names, guesses, strict=True)).get(row["favoured_class"])
        active, count = (run.table(name, row["batch_norm"]).iloc[0] for name in ("active_fraction", "count"))
        rows.append(
            {column(key): run.value(key) for key in swept}
            | {name: None if isinstance(row.get(name), Censored) else row.get(name) for name in OF_SUMMARY}
            | {
                "active_start": float(np.average(active, weights=count)),
                "dominance_early": dominance[early],
                "accuracy_early": accuracy[early],
                "favoured_early": None if favoured is None else guesses.loc[early, favoured],
                "favoured_end": None if favoured is None else guesses[favoured].iloc[-1],
                "seconds": run.info.get("wall_seconds"),
                "commit": run.info.get("code", {}).get("igb", {}).get("commit", "")[:9],
            }
        )
    return _short(pd.DataFrame(rows))


def _of_classes(run: Run, swept: list[str]) -> pd.DataFrame:
    """Of a run with wrong labels, a row for each epoch and class; at initialisation for epoch 0.

    `guess_fraction` and `accuracy` are on test images; `memorised` is the share of the training images wrongly labelled
    as the class that are predicted as that.
    """
    parts = []
    for mode in run.modes:
        columns = {name: run.table(name, mode) for name in ("guess_fraction", "accuracy", "memorised")}
        ends = [step for step in columns["memorised"].index if step % run.steps_per_epoch == 0]
        table = pd.DataFrame({name: found.loc[ends].stack() for name, found in columns.items()})
        table = table.rename_axis(["epoch", "class"]).reset_index()
        known = {column(key): run.value(key) for key in swept} | {"batch_norm": mode}
        parts.append(table.assign(epoch=table["epoch"] // run.steps_per_epoch, **known))
    return _short(pd.concat(parts))


def _short(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(lambda value: float(f"{value:.5g}") if isinstance(value, float) else value)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m study.collect SWEEPS TABLES")
    with one_line_exit():
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
