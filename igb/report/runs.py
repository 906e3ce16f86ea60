"""Reading run folders into pandas."""

import csv
import functools
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from igb import _slurm
from igb._checks import InputError, one_line
from igb.folder.identity import MAY_DIFFER, SEED, flat, identity, keys_with_role, role
from igb.folder.schema import (
    FINAL,
    INTEGER_COLUMNS,
    LABELS,
    LOSS_CURVE,
    MEMORISATION,
    MEMORISATION_CLASSES,
    METRICS,
    OLD_FILE_DEFAULTS,
    PLAN,
    RUN,
    TEXT_COLUMNS,
    hydra_path,
    overrides_path,
    table_path,
)  # fmt: skip
from igb.folder.state import current_status, planned, read

# What `Run.overall` gives: one number of a probe, where `Run.table` gives one for each class.
OVERALL = {
    "dominance": "dominance: share of guesses of the most guessed class",
    "mean_accuracy": "mean accuracy of the classes",
    "wrong.predicted_given": "memorised: share of the wrong-labelled images predicted as labelled",
    "wrong.predicted_true": "recovered: share of the wrong-labelled images predicted as what they are",
}


@dataclass
class Run:
    """One run: its folder, a label among the runs read with it, its overrides, its run.json, and its metrics.csv."""

    folder: Path
    label: str
    overrides: dict[str, Any]
    info: dict[str, Any]
    metrics: pd.DataFrame
    _tables: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their numbers."""
        return list(self.info["class_names"])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return int(self.info["steps_per_epoch"])

    @property
    def modes(self) -> list[str]:
        """The batch-norm modes it was probed in."""
        return list(self.metrics["batch_norm"].unique())

    @property
    def unfinished(self) -> str | None:
        """How far it has come, and the reason if one is known; None if it is finished."""
        if self.info["status"] in FINAL:
            return None
        reason = f" ({self.info['reason']})" if self.info.get("reason") else ""
        last = self.metrics["step"].iloc[-1]
        return f"{self.info['status']}{reason}, measured up to step {last:,} of {self.info['total_steps']:,}"

    @property
    def seeds(self) -> dict[str, Any]:
        """Its seeds by their keys."""
        return self.info["seeds"] or {key: self.overrides[key] for key in keys_with_role(SEED) if key in self.overrides}

    @functools.cached_property
    def config(self) -> Any:
        """The composed config, with interpolations resolved on access."""
        return OmegaConf.create(self.info["config"])

    @functools.cached_property
    def choices(self) -> dict[str, Any]:
        """The option chosen for each config group."""
        try:
            text = hydra_path(self.folder).read_text(encoding="utf-8")
            found: dict[str, Any] = yaml.load(text, _Loader)["hydra"]["runtime"]["choices"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            return {}
        return found

    def value(self, key: str) -> Any:
        """The value of a key or group in this run, on the command line or not; None if it is unknown."""
        if key in self.overrides:
            return self.overrides[key]
        if key in self.choices:
            return self.choices[key]
        try:
            found = OmegaConf.select(self.config, key)
        except OmegaConfBaseException:  # an interpolation that only Hydra can resolve
            return None
        if OmegaConf.is_dict(found):
            return None
        return OmegaConf.to_container(found) if OmegaConf.is_list(found) else found

    def table(self, quantity: str, batch_norm: str) -> pd.DataFrame:
        """A quantity over the probes of one mode: a row for each step, a column for each class number.

        `quantity` is a column of metrics.csv; `gradient_share`, the share of a class's samples in the sum of the
        gradient norms of all samples, NaN where that sum is zero; or `memorised`, the share of the training images
        wrongly labelled as a class that are predicted as that, without rows for a run that has none.
        """
        if (quantity, batch_norm) not in self._tables:  # each is asked for many times
            self._tables[quantity, batch_norm] = self._table(quantity, batch_norm)
        return self._tables[quantity, batch_norm]

    def _table(self, quantity: str, batch_norm: str) -> pd.DataFrame:
        if quantity == "gradient_share":
            total = self.table("gradient_norm", batch_norm) * self.table("count", batch_norm)
            return total.div(total.sum(axis=1).replace(0, np.nan), axis=0)
        if quantity == "memorised":
            rows = self._of_labels("memorisation_classes", list(MEMORISATION_CLASSES), len(self.info["class_names"]))
            rows = rows[(rows["batch_norm"] == batch_norm) & (rows["labels"] == "wrong")]
            return rows.pivot(index="step", columns="class", values="predicted_given")
        rows = self.metrics[(self.metrics["batch_norm"] == batch_norm) & (self.metrics["split"] == "test")]
        classes = len(self.info["class_names"])
        values = rows[quantity].to_numpy().reshape(-1, classes)
        return pd.DataFrame(values, index=pd.Index(rows["step"].to_numpy()[::classes], name="step"))

    def overall(self, quantity: str, batch_norm: str) -> "pd.Series[float]":
        """One number for each probe of one mode, by its step.

        `quantity` is `dominance`, max_j G_j; `mean_accuracy`, of the classes; or a column of memorisation.csv after
        `clean.` or `wrong.`, empty for a run without wrong labels.
        """
        if quantity == "dominance":
            return self.table("guess_fraction", batch_norm).max(axis=1, skipna=False)
        if quantity == "mean_accuracy":
            return self.table("accuracy", batch_norm).mean(axis=1, skipna=False)
        labels, column = quantity.split(".")
        rows = self._memorisation
        return rows[(rows["batch_norm"] == batch_norm) & (rows["labels"] == labels)].set_index("step")[column]

    @functools.cached_property
    def _memorisation(self) -> pd.DataFrame:
        return self._of_labels("memorisation", list(MEMORISATION), 1)

    def _of_labels(self, name: str, columns: Sequence[str], rows: int) -> pd.DataFrame:
        """A file with so many rows for clean and for wrong labels, up to its last complete probe.

        Without rows if there is none that can be read.
        """
        try:
            text = table_path(self.folder, name).read_text(encoding="utf-8")
            table = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]))[list(columns)]
            numbers = [name for name in columns if name not in ("batch_norm", "labels")]
            table[numbers] = table[numbers].apply(pd.to_numeric)
            of_probe = [labels for labels in LABELS for _ in range(rows)]
            probes = len(table) // len(of_probe)
            whole = table.iloc[: probes * len(of_probe)]
            if whole["labels"].tolist() != of_probe * probes or whole["step"].isna().any():
                raise ValueError("its lines are not in the order in which they are written")
        except (OSError, ValueError, KeyError, TypeError):
            return pd.DataFrame(columns=list(columns))
        return whole

    def loss_curve(self) -> pd.DataFrame | None:
        """loss_curve.csv without an incomplete last line; None if it cannot be read."""
        try:
            text = table_path(self.folder, "loss_curve").read_text(encoding="utf-8")
            table = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]))
            for column in ("p_y", "loss", "gradient"):
                table[column] = pd.to_numeric(table[column], errors="coerce")
            if "weight" not in table:  # as in older files
                table["weight"] = -table["gradient"] / (1 - table["p_y"])
            table["weight"] = pd.to_numeric(table["weight"], errors="coerce")
            table = table[list(LOSS_CURVE)]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return table.dropna(subset=list(LOSS_CURVE)[:-1]).query("0 < p_y <= 1")


def load_runs(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """All runs in a folder, or in several, as one table: a row for each run, probe, batch-norm mode and class.

    Columns: `run` (its label), `status`, `config.<key>` for each key or group that was set and is not the same in every
    run, and those of metrics.csv. Strings are categories; numbers and booleans keep their types. Raises InputError if
    there is no run with recorded probes.
    """
    folders = [folders] if isinstance(folders, str | Path) else folders
    return table_of(find_runs_or_raise([Path(folder) for folder in folders])[0])


def table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The table of `load_runs`."""
    lengths = [len(run.metrics) for run in runs]
    names = {text: sorted({name for run in runs for name in run.metrics[text].cat.categories}) for text in TEXT_COLUMNS}
    parts = []
    for run in runs:  # concatenation keeps categories only if they are equal
        texts = {text: run.metrics[text].cat.set_categories(names[text]) for text in TEXT_COLUMNS}
        parts.append(run.metrics.assign(**texts))
    table = pd.concat(parts, ignore_index=True)
    keys = differing(runs)
    columns = {
        "run": pd.Series([run.label for run in runs], dtype="category"),
        "status": pd.Series([run.info["status"] for run in runs], dtype="category"),
        **{f"config.{key}": _typed([run.value(key) for run in runs]) for key in keys},
    }
    of_row = np.repeat(np.arange(len(runs)), lengths)
    for place, (name, column) in enumerate(columns.items()):
        table.insert(place, name, column.take(of_row).array)
    return table


def find_runs_or_raise(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Like `find_runs`, but raises InputError if no run can be shown."""
    runs, left_out = find_runs(folders)
    if not runs:
        raise InputError("\n".join([f"no run with recorded probes in {', '.join(map(str, folders))}", *left_out]))
    return runs, left_out


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in the folders, in the order they started, and a line for each one that cannot be shown yet."""
    found: dict[Path, Run] = {}
    left_out = []
    queued = functools.cache(_slurm.queued)  # asks SLURM at most once
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
        for file in sorted(folder.rglob(RUN)):
            try:
                found[file.parent.resolve()] = read_run(file.parent, queued)
            except (OSError, ValueError) as error:
                left_out.append(f"{file.parent}: {one_line(error)}")
        for plan in sorted(folder.rglob(PLAN)):
            try:
                left_out += [
                    f"{plan.parent / name}: not started"
                    for name in planned(plan.parent)
                    if not (plan.parent / name / RUN).exists()
                ]
            except (InputError, TypeError) as error:
                left_out.append(f"the plan in {plan}: {one_line(error)}")
    runs = sorted(found.values(), key=lambda run: (run.info["started"], str(run.folder)))
    _name(runs, differing(runs))
    return runs, left_out


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys that are not the same in every run: those that were set, in the order they were given.

    If a run has none that were set, as when started from Python, the keys of the configs count too, except those that
    take their value from another key.
    """
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    if not all(run.overrides for run in runs):
        written = (item for run in runs for item in flat(run.info["config"]).items())
        keys |= dict.fromkeys(key for key, value in written if "${" not in str(value))
    counts = {"data.root"} if len({run.info.get("images") for run in runs}) > 1 else set()
    return [
        key
        for key in keys
        if (role(key) != MAY_DIFFER or key in counts) and len({_same(run.value(key)) for run in runs}) > 1
    ]


def described(run: Run, keys: Sequence[str]) -> str:
    """A name made of the values of some keys; without any, the loss or the folder's name.

    A run started from Python has no names of options: its loss is `loss=CrossEntropy`, by the class that it is.
    """
    values = {key: value for key in keys if (value := run.value(key)) is not None}
    given = ", ".join(
        f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
        if key.endswith("._target_")
        else f"{key}={value}"
        for key, value in values.items()
    )
    return given or (f"loss={run.value('loss')}" if run.value("loss") is not None else run.folder.name)


def setting(run: Run) -> str:
    """A text that is equal for runs that differ only in their seeds, their length, and keys that may differ."""
    return _same([identity(run.info["config"] or run.overrides), run.class_names, run.steps_per_epoch])


def read_metrics(file: Path, classes: int) -> pd.DataFrame:
    """metrics.csv up to its last complete probe: a killed run may leave an incomplete line or probe.

    A column that an older schema lacks gets the value in `OLD_FILE_DEFAULTS`. Raises ValueError for a file that is not
    a metrics.csv.
    """
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    while whole.count(b'"') % 2:  # cut off at a line break inside a quoted name
        whole = whole[: whole.rfind(b"\n", 0, -1) + 1]
    header = next(csv.reader([whole[: whole.find(b"\n")].decode(errors="replace")]), [])
    if missing := [name for name in METRICS if name not in header and name not in OLD_FILE_DEFAULTS]:
        raise ValueError(f"metrics.csv has no column {missing[0]!r}; it is from another version of igb")
    types = dict.fromkeys(METRICS, pa.float64())
    types |= dict.fromkeys(INTEGER_COLUMNS, pa.int64()) | dict.fromkeys(
        TEXT_COLUMNS, pa.dictionary(pa.int32(), pa.string())
    )
    options = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=[name for name in METRICS if name in header], null_values=["nan"],
        strings_can_be_null=False,
    )  # fmt: skip
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        arrow = pyarrow.csv.read_csv(io.BytesIO(whole), parse_options=parse, convert_options=options)
    except pa.ArrowInvalid as error:
        raise ValueError(f"metrics.csv is damaged: {error}") from error
    arrow = arrow.slice(0, arrow.num_rows // classes * classes)
    if (arrow["class"].to_numpy().reshape(-1, classes) != np.arange(classes)).any():
        raise ValueError(f"metrics.csv does not have the {classes} classes of run.json in every probe; it is damaged")
    table: pd.DataFrame = arrow.unify_dictionaries().to_pandas()
    for name, value in OLD_FILE_DEFAULTS.items():
        if name not in table:
            table[name] = pd.Categorical([value] * len(table)) if name in TEXT_COLUMNS else value
    table = table[list(METRICS)]
    for (_, mode), steps in table.iloc[::classes].groupby(["split", "batch_norm"], observed=True)["step"]:
        if not steps.is_monotonic_increasing or not steps.is_unique:
            raise ValueError(f"the {mode} probes of metrics.csv are not in the order of their steps; it is damaged")
    return table


def read_run(folder: Path, queued: Callable[[], set[str]] = _slurm.queued) -> Run:
    """The run in a folder; `queued` gives the jobs in SLURM's queue. OSError or ValueError if it cannot be shown."""
    info = read(folder)
    if info is None:
        raise ValueError("there is no run.json")
    info["status"] = current_status(folder, info, queued)
    if "class_names" not in info or not table_path(folder, "metrics").exists():
        raise ValueError(f"no probe yet ({info['status']})")
    names = info["class_names"]
    checks = {
        "started": isinstance(info.get("started"), str),
        "class_names": isinstance(names, list) and names and all(isinstance(name, str) for name in names),
        "steps_per_epoch": isinstance(info.get("steps_per_epoch"), int) and info["steps_per_epoch"] > 0,
        "total_steps": isinstance(info.get("total_steps"), int),
    }
    if invalid := [key for key, is_valid in checks.items() if not is_valid]:
        raise ValueError(f"run.json has no valid {invalid[0]!r}; it is damaged or from another version of igb")
    for key in ("seeds", "config"):  # earlier versions did not write them
        info[key] = info[key] if isinstance(info.get(key), dict) else {}
    metrics = read_metrics(table_path(folder, "metrics"), len(names))
    if metrics.empty:
        raise ValueError(f"no probe yet ({info['status']})")
    return Run(folder, "", _overrides(overrides_path(folder)), info, metrics)


def _overrides(file: Path) -> dict[str, Any]:
    """The overrides of a run by key; none if they cannot be read, since the config has their values."""
    try:
        return dict(map(_parse, yaml.load(file.read_text(encoding="utf-8"), _Loader)))
    except (OSError, yaml.YAMLError, HydraException, TypeError, ValueError):
        return {}


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache  # Hydra's parser is slow, and the runs of a sweep share most of their overrides
def _parse(override: str) -> tuple[str, Any]:
    """The key and the typed value of an override."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def _same(value: Any) -> str:
    """A text that is equal for equal values; 1 and 1.0 are equal."""

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(key): plain(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            return [plain(item) for item in part]
        return float(part) if isinstance(part, int) and not isinstance(part, bool) else part

    return json.dumps(plain(value), sort_keys=True, default=str)


def _name(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Label each run by the values of the keys, and by its folder too if that is not unique."""
    for run in runs:
        run.label = described(run, keys)
    counts = Counter(run.label for run in runs)
    common = os.path.commonpath([run.folder.resolve().parent for run in runs]) if runs else ""
    for run in runs:
        if counts[run.label] > 1:
            run.label += f" ({os.path.relpath(run.folder.resolve(), common)})"


def _typed(values: Sequence[Any]) -> "pd.Series[Any]":
    """A column: numbers and booleans keep their type, anything else becomes text; None stays empty."""
    present = [value for value in values if value is not None]
    if not all(isinstance(value, bool | int | float) for value in present):
        return pd.Series([None if value is None else str(value) for value in values], dtype="category")
    plain = len(present) == len(values) or any(isinstance(value, float) for value in present)
    return pd.Series(values) if plain else pd.Series(pd.array(values))
