"""What docs/reproduction.md needs of the runs of its stages, as small CSV files.

`python -m reproduction.collect multirun/reproduction docs/reproduction` reads the sweep of each stage, in the folder of
its name, and writes into the other folder: `<stage>.csv`, a row for each finished run, batch-norm mode and
probe; `<stage>_classes.csv`, one for each class too, in evaluation mode, for the stages whose classes are shown one by
one; and `runs.csv`, a row for each run with its status and cost, those of stages not begun among them.
"""

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from igb._checks import InputError
from igb._paths import config_folder
from igb.folder.schema import FINAL
from igb.report.metrics import favoured_order
from igb.report.runs import Run, find_runs

STAGES = {
    "initialisation": False,
    "training_batches": False,
    "first_batches": False,
    "replaced_conv1": False,
    "open_choices": False,
    "piecewise_zero": False,
    "favoured_class": False,
    "favoured_conv1": True,
    "small_rate": True,
    "epoch_one": True,
    "exact": False,
    "uniform_start": False,
    "long_run": True,
    "remedy": False,
    "trainability": False,
    "trainability_cifar10": False,
}  # in their order, and whether the classes are shown one by one
KEYS = {
    "loss": "loss",
    "init": "init",
    "data.scaling": "scaling",
    "optimizer.lr": "lr",
    "optimizer.momentum": "momentum",
    "loss.warmup_epochs": "warmup_epochs",
    "init.weight_variance": "weight_variance",
    "compute": "compute",
    "seed": "seed",
}  # of the config, and their columns
CLASS_KEYS = ["loss", "lr", "momentum", "seed"]  # those in which runs of a stage whose classes are shown differ
CLASS_QUANTITIES = ("probability", "accuracy")
GUESSED = 0.5  # of the uniform share 1/C: a class with at least that guess fraction counts as guessed


def collect(sweeps: Path, folder: Path) -> None:
    """Write the tables of all stages that have runs in `sweeps` into `folder`.

    Rows of runs that are not there stay as they are, so that a stage can be run in parts and on several machines.
    Raises InputError if there is no stage at all.
    """
    found = {stage: sweeps / stage for stage in STAGES if (sweeps / stage).is_dir()}
    if not found:
        raise InputError(f"{sweeps} holds none of the stages: {', '.join(STAGES)}")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runs.csv"
    kept = pd.DataFrame(columns=["stage", *KEYS.values(), "status"], dtype=str)
    if file.exists():
        kept = pd.read_csv(file, dtype=str, keep_default_na=False)
    of_runs = []
    for stage in STAGES:
        begun = kept[(kept["stage"] == stage) & (kept["status"] != "not begun")]
        if stage in found:
            runs, left_out = find_runs([found[stage]])
            print(f"{stage}: {len(runs)} runs, {len(left_out)} without a probe")
            _tabulate(stage, [run for run in runs if run.info["status"] in FINAL], folder)
            rows = [{"stage": stage} | keys(run) | cost(run) for run in runs]
            new = pd.DataFrame(rows + [{"stage": stage, "status": "without a probe"}] * len(left_out), dtype=object)
            others = begun[begun["status"].isin(FINAL)]
            begun = _with_others(_text(new), others, list(KEYS.values())) if len(new) else others
        missing = described(stage) - len(begun)
        of_runs += [begun, pd.DataFrame([{"stage": stage, "status": "not begun"}] * missing)]
    pd.concat([part for part in of_runs if len(part)], ignore_index=True).to_csv(file, index=False)


def _tabulate(stage: str, runs: Sequence[Run], folder: Path) -> None:
    """Write the tables of a stage's finished runs."""
    if not runs:
        return
    modes = [(run, over_probes(run, mode).assign(batch_norm=mode)) for run in runs for mode in run.modes]
    _write(modes, [*KEYS.values(), "batch_norm"], folder / f"{stage}.csv")
    if STAGES[stage]:
        classes = [(run, of_classes(run, "running")) for run in runs]
        _write(classes, CLASS_KEYS, folder / f"{stage}_classes.csv")


def described(stage: str) -> int:
    """The number of runs of a stage by its description."""
    file = config_folder() / "experiment" / "reproduction" / f"{stage}.yaml"
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params")
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return math.prod(len(list(one.sweep_iterator())) if one.is_sweep_override() else 1 for one in overrides)


def keys(run: Run) -> dict[str, object]:
    """The choices that a run is known by."""
    return {column: run.value(key) for key, column in KEYS.items()}


def cost(run: Run) -> dict[str, object]:
    """How a run ended and what it took."""
    seconds, threads = run.info.get("wall_seconds"), run.info["threads"]
    return {
        "status": run.info["status"],
        "steps": int(run.metrics["step"].iloc[-1]),
        "images": int(run.metrics["count"].iloc[: len(run.class_names)].sum()),
        "precision": run.info["precision"],
        "threads": threads,
        "wall_seconds": seconds,
    }


def over_probes(run: Run, mode: str) -> pd.DataFrame:
    """A row for each probe, empty where outputs are not finite. `p` is p̄_k, and a spread the mean of |x_k - 1/C|.

    favoured, dominant: the class most guessed at initialisation, and at the probe; favoured_p, favoured_accuracy,
    favoured_share, dominant_share: of that class, its share being its part in the sum of the
    gradient norms; others_p: the largest p of all classes but the favoured; largest_p, mean_p, p_spread, accuracy
    (mean), accuracy_spread: over all classes; dominance: max_j G_j; guessed: number of classes with G_j >= 1/(2C);
    mean_loss, gradient (mean norm), active: over all images.
    """
    guesses, p = run.table("guess_fraction", mode), run.table("probability", mode)
    accuracy, share = run.table("accuracy", mode), run.table("gradient_share", mode)
    count = run.table("count", mode)
    order = favoured_order(guesses, run.table("mean_probability", mode)) or list(guesses.columns)
    favoured, others = order[0], order[1:]
    uniform = 1 / len(order)
    dominant = guesses.fillna(0).to_numpy().argmax(axis=1)
    probes = np.arange(len(p))

    def over_images(quantity: str) -> "pd.Series[float]":
        return (run.table(quantity, mode) * count).sum(axis=1, skipna=False) / count.sum(axis=1)

    table = pd.DataFrame(
        {
            "epoch": p.index / run.steps_per_epoch,
            "favoured": float(favoured),
            "dominant": dominant.astype(float),
            "largest_p": p.max(axis=1),
            "mean_p": p.mean(axis=1),
            "p_spread": (p - uniform).abs().mean(axis=1),
            "favoured_p": p[favoured],
            "others_p": p[others].max(axis=1),
            "dominance": guesses.max(axis=1),
            "guessed": (guesses >= GUESSED * uniform).sum(axis=1).astype(float),
            "accuracy": accuracy.mean(axis=1),
            "accuracy_spread": (accuracy - uniform).abs().mean(axis=1),
            "favoured_accuracy": accuracy[favoured],
            "mean_loss": over_images("loss"),
            "gradient": over_images("gradient_norm"),
            "active": over_images("active_fraction"),
            "favoured_share": share[favoured],
            "dominant_share": share.to_numpy()[probes, dominant],
        },
        index=p.index,
    )
    finite = guesses.notna().all(axis=1) & p.notna().all(axis=1)
    if not finite.iloc[0]:
        table["favoured"] = np.nan
    table.loc[~finite, table.columns.difference(["epoch", "favoured"])] = np.nan
    return table.reset_index()


def of_classes(run: Run, mode: str) -> pd.DataFrame:
    """A row for each probe and class, the favoured class first and the others by their initial guess fraction."""
    order = favoured_order(run.table("guess_fraction", mode), run.table("mean_probability", mode))
    rank = {k: place + 1 for place, k in enumerate(order or range(len(run.class_names)))}
    columns = {name: run.table(name, mode).stack() for name in CLASS_QUANTITIES}
    table = pd.DataFrame(columns).rename_axis(["step", "class"]).reset_index()
    table.insert(1, "epoch", table["step"] / run.steps_per_epoch)
    table.insert(3, "rank", table["class"].map(rank))
    return table


def _write(parts: Sequence[tuple[Run, pd.DataFrame]], known: list[str], file: Path) -> None:
    """The tables of the runs under each other, with what a run is known by first; five digits."""
    tables = [
        table.assign(**{name: [value] * len(table) for name, value in keys(run).items() if name in known})
        for run, table in parts
    ]
    whole = pd.concat(tables, ignore_index=True)
    given = [name for name in known if whole[name].notna().any()]  # not all initialisers have a weight variance
    whole = whole[[*given, *whole.columns.drop(known)]]
    text = {name: whole[name].map("{:.5g}".format) for name in whole.columns.drop(given) if whole[name].dtype == float}
    whole = _text(whole.assign(**text))
    if file.exists():
        kept = pd.read_csv(file, dtype=str, keep_default_na=False)
        whole = _with_others(whole, kept, [name for name in given if name != "batch_norm"])
    whole.sort_values(given, kind="stable", key=_numbers).to_csv(file, index=False)


def _text(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is in a file."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)


def _with_others(new: pd.DataFrame, kept: pd.DataFrame, known: list[str]) -> pd.DataFrame:
    """The rows of `kept` that are of none of the new runs, and the new ones."""
    known = [name for name in known if name in new and name in kept]
    others = kept[~kept.set_index(known).index.isin(new.set_index(known).index)]
    return pd.concat([others, new], ignore_index=True).fillna("")


def _numbers(column: "pd.Series[str]") -> "pd.Series[Any]":
    """The values of a column, as numbers if they are."""
    values = pd.to_numeric(column, errors="coerce")
    return column if values.isna().any() else values


def main() -> None:
    """Collect from the folder given."""
    if len(sys.argv) != 3:
        sys.exit(
            "usage: python -m reproduction.collect SWEEPS TABLES (the stages' sweeps are read, their tables written)"
        )
    try:
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        sys.exit(f"igb: {error}")


if __name__ == "__main__":
    main()
