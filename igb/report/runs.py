"""Reading run folders into pandas."""

import functools
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from igb import slurm
from igb._checks import InputError, one_line
from igb.folders import FINAL, PLAN, planned, status

COUNTS = {"step": int, "class": int, "count": int}
TEXTS = {"batch_norm": str, "class_name": str}


@dataclass
class Run:
    """One run: its folder, what tells it from the others read with it, its run.json, and its metrics.csv."""

    folder: Path
    label: str
    overrides: dict[str, Any]
    info: dict[str, Any]
    metrics: pd.DataFrame

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their numbers."""
        return list(self.info["class_names"])

    @property
    def modes(self) -> list[str]:
        """The batch-norm modes it was probed in."""
        return list(self.metrics["batch_norm"].unique())

    @property
    def unfinished(self) -> str | None:
        """How far it has come, and why it stands where it does; None if it is finished."""
        if self.info["status"] in FINAL:
            return None
        reason = f" ({self.info['reason']})" if self.info.get("reason") else ""
        last = self.metrics["step"].iloc[-1]
        return f"{self.info['status']}{reason}, measured up to step {last:,} of {self.info['total_steps']:,}"

    def table(self, quantity: str, batch_norm: str) -> pd.DataFrame:
        """A quantity over the probes of one mode: a row for each step, a column for each class number."""
        rows = self.metrics[self.metrics["batch_norm"] == batch_norm]
        return rows.pivot(index="step", columns="class", values=quantity)


def load_runs(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """All runs in a folder, or in several, as one table: a row for each run, probe, batch-norm mode and class.

    Columns: `run` (what tells it from the others), `status`, `config.<key>` for each key whose override differs
    between the runs, and those of metrics.csv. Raises InputError if there is no run with a probe.
    """
    folders = [folders] if isinstance(folders, str | Path) else folders
    runs, _ = find_runs([Path(folder) for folder in folders])
    if not runs:
        raise InputError(f"there is no run with a probe in {', '.join(map(str, folders))}")
    keys = _differing([run.overrides for run in runs])
    tables = []
    for run in runs:
        settings = {f"config.{key}": _scalar(run.overrides.get(key)) for key in keys}
        columns = {"run": run.label, "status": run.info["status"], **settings}
        tables.append(pd.concat([pd.DataFrame(columns, index=run.metrics.index), run.metrics], axis="columns"))
    return pd.concat(tables, ignore_index=True)


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in the folders, in the order they started, and a line for each one that cannot be shown yet."""
    found: dict[Path, Run] = {}
    left_out = []
    queued = functools.cache(slurm.queued)  # one look, if any
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
        for file in sorted(folder.rglob("run.json")):
            try:
                found[file.parent.resolve()] = _read(file.parent, queued)
            except (OSError, ValueError, KeyError) as error:
                left_out.append(f"{file.parent}: {one_line(error)}")
        for plan in sorted(folder.rglob(PLAN)):
            planned_runs = [plan.parent / name for name in planned(plan.parent)]
            left_out += [f"{run}: not begun" for run in planned_runs if not (run / "run.json").exists()]
    runs = sorted(found.values(), key=lambda run: (run.info["started"], str(run.folder)))
    keys = _differing([run.overrides for run in runs])
    for run in runs:
        run.label = ", ".join(f"{key}={run.overrides[key]}" for key in keys if key in run.overrides) or run.label
    labels = [run.label for run in runs]
    common = os.path.commonpath([run.folder.resolve().parent for run in runs]) if runs else ""
    for run in runs:
        if labels.count(run.label) > 1:
            run.label += f" ({os.path.relpath(run.folder.resolve(), common)})"
    return runs, left_out


def read_metrics(file: Path, classes: int) -> pd.DataFrame:
    """metrics.csv up to its last whole probe: a run that was killed may have left a torn line or a part of a probe."""
    text = file.read_text()
    table = pd.read_csv(
        io.StringIO(text[: text.rfind("\n") + 1]),
        dtype=TEXTS,
        keep_default_na=False,
        na_values={name: ["nan"] for name in text.partition("\n")[0].split(",") if name not in {*COUNTS, *TEXTS}},
    )
    rows = table.groupby(["step", "batch_norm"])["class"].transform("size")
    return table[rows == classes].astype(COUNTS)


def _read(folder: Path, queued: Callable[[], set[str]]) -> Run:
    info = json.loads((folder / "run.json").read_text())
    if missing := [key for key in ("status", "started") if key not in info]:
        raise ValueError(f"run.json has no {missing[0]!r}; it is damaged or of another version of igb")
    info["status"] = status(folder, info, queued)
    if "class_names" not in info or not (folder / "metrics.csv").exists():
        raise ValueError(f"no probe yet ({info['status']})")
    metrics = read_metrics(folder / "metrics.csv", len(info["class_names"]))
    if metrics.empty:
        raise ValueError(f"no probe yet ({info['status']})")
    overrides_file = folder / ".hydra" / "overrides.yaml"
    lines = yaml.safe_load(overrides_file.read_text()) if overrides_file.exists() else []
    overrides = dict(map(_parse, lines))
    return Run(folder, str(overrides.get("loss", folder.name)), overrides, info, metrics)


@functools.cache  # Hydra's parser is slow, and the runs of a sweep share most of their overrides
def _parse(override: str) -> tuple[str, Any]:
    """The key and the typed value of an override."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def _scalar(value: Any) -> Any:
    """A value that fits into a cell of a table; lists and the like as text."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _differing(overrides: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that do not have the same override in every run, in the order they were given."""
    keys = dict.fromkeys(key for given in overrides for key in given if key != "name")
    return [key for key in keys if len({str(given.get(key)) for given in overrides}) > 1]
