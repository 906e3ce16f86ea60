"""What TensorBoard shows of several runs together: HParams and the figures. It needs tensorboard but not torch."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from igb.report.metrics import Censored
from igb.report.runs import Run, differing

METRICS = ("escaped", "escape_step", "half_life", "dominance_end", "mean_accuracy", "worst_accuracy")
SUFFIX = ".igb-report"  # of igb's own event files
LONGEST_NAME = 150  # characters


def write_board(folder: Path, runs: Sequence[Run], summary: pd.DataFrame, pictures: Mapping[str, Path]) -> None:
    """Write event files that TensorBoard, started on the sweep's folder, reads along with those of the runs.

    Args:
        folder: where to write them; those of an earlier report are deleted.
        runs: each gets an HParams session with its label and the values that differ between runs.
        summary: the table of these runs, which has the metrics; a censored event time is left out.
        pictures: PNG files by title.
    """
    for file in folder.rglob(f"*{SUFFIX}"):
        file.unlink()
    keys = differing(runs) or list(runs[0].overrides)
    modes = list(summary["batch_norm"].unique())
    metrics = [
        hparams.Metric(f"summary/{mode}/{name}", display_name=f"{name} ({mode})" if len(modes) > 1 else name)
        for mode in modes
        for name in METRICS
    ]
    experiment = hparams.hparams_config_pb([hparams.HParam(key, _domain(runs, key)) for key in keys], metrics)
    _write(folder, [experiment, *(_picture(title, file) for title, file in pictures.items())])
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in summary.to_dict("records"):
        rows.setdefault(row["run"], []).append(row)
    taken: set[str] = set()
    for run in runs:
        values = {key: _value(run.value(key)) for key in keys if run.value(key) is not None}
        session = hparams.hparams_pb(values, trial_id=run.label)
        scalars = [
            Summary.Value(tag=f"summary/{row['batch_norm']}/{name}", simple_value=value)
            for row in rows[run.label]
            for name in METRICS
            if (value := _metric(row, name)) is not None
        ]
        _write(folder / _name(run.label, taken), [session, Summary(value=scalars)])


def _write(folder: Path, summaries: Sequence[Any]) -> None:
    writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
    for summary in summaries:
        # Dated now, so that TensorBoard lists it after the runs.
        writer.add_event(Event(summary=summary, step=0, wall_time=time.time()))
    writer.close()


def _picture(title: str, file: Path) -> Any:
    with Image.open(file) as image:
        width, height = image.size
    picture = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=file.read_bytes())
    return Summary(value=[Summary.Value(tag=title, image=picture)])


def _metric(row: Mapping[str, Any], name: str) -> float | None:
    """A value of the summary as a float; None if it is missing or censored."""
    value = not isinstance(row["escape_step"], Censored) if name == "escaped" else row[name]
    if value is None or isinstance(value, Censored) or math.isnan(value):
        return None
    return float(value)


def _value(value: Any) -> Any:
    """A value as HParams accepts it: a boolean, a number or a string."""
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, int | float) else str(value)


def _domain(runs: Sequence[Run], key: str) -> Any:
    """The values of a key if they are of one type; None otherwise."""
    values = {_value(run.value(key)) for run in runs if run.value(key) is not None}
    if len({type(value) for value in values}) != 1:
        return None
    return hparams.Discrete(sorted(values))


def _name(label: str, taken: set[str]) -> str:
    """A unique folder name made from a run's label; TensorBoard shows it as the run's name."""
    safe = "".join("_" if character in '/\\:*?"<>|' or ord(character) < 32 else character for character in label)
    base = safe.replace(", ", ",").encode()[:LONGEST_NAME].decode(errors="ignore")
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name
