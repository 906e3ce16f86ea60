"""The tables, matrices and TensorBoard events of a run, readable while it is running."""

import csv
import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import custom_scalars, text

from igb._checks import InputError, one_line
from igb._files import replacing
from igb.folder.schema import LOSS_CURVE, MATRICES, METRICS, QUANTITIES, TRAIN, class_title, matrices_path, table_path
from igb.folder.state import RunState
from igb.losses import LossSchedule, TrueClassLoss, curve_points, loss_curve
from igb.schedule import Schedule
from igb.training.classifier import Classifier
from igb.training.events import EventFile
from igb.training.probe import Probe, ProbeResult
from igb.training.step_losses import StepLoss
from igb.training.stopwatch import Stopwatch
from igb.training.tables import Table, cells

# The order of TensorBoard's charts, those that answer first in front.
CHARTS = ("probability", "accuracy", "guess_fraction", "gradient_norm", "mean_probability", "loss", "active_fraction")
FORMER_EVENTS = b"^dominance/"  # of the charts, with which our event files began before they had a suffix
SUFFIX = ".igb"  # of the event file, by which it is known as ours; in schema 1 it had none
NO_RECORDS = {"metrics": 0, "train": 0, "probes": 0, "seconds": 0.0}  # what a run that begins has of its records


class Records(pl.Callback):
    """Writes the results of probes and steps; as a context manager it opens and closes the files of a run.

    Args:
        state: the run's state, with the folder that the files are written to.
        config: the run's config.
        class_names: the names of the data's classes.
        loss_schedule: the run's losses, whose curves are written to loss_curve.csv.
        probe: the options of the probe, whose batch-norm modes TensorBoard draws.
        schedule: the run's step schedule.
        stopwatch: the run's stopwatch.
        kept: the `records_state` in the checkpoint that the run resumes from. Rows after it are dropped once the files
            are opened; InputError if some before it are missing.
    """

    def __init__(
        self,
        state: RunState,
        config: DictConfig,
        class_names: Sequence[str],
        loss_schedule: LossSchedule,
        probe: Probe,
        schedule: Schedule,
        stopwatch: Stopwatch,
        kept: Mapping[str, Any] = NO_RECORDS,
    ) -> None:
        self.run_state, self.folder, self.config, self.class_names = state, state.folder, config, class_names
        self.schedule, self.stopwatch, self._kept = schedule, stopwatch, kept
        self._loss_schedule, self._modes = loss_schedule, list(dict.fromkeys(view.batch_norm for view in probe.views))
        self._checkpoint_seconds = float(state.previous.get("checkpoint_seconds", 0.0)) if kept["metrics"] else 0.0
        self._open_files = ExitStack()
        self._drawn: dict[str, Summary] = {}  # of each batch-norm mode, of which only the values change
        self._metrics = Table(table_path(self.folder, "metrics"), list(METRICS), kept["metrics"])
        self._train = Table(table_path(self.folder, "train"), TRAIN, kept["train"])
        self._matrices = _kept_matrices(self.folder, kept["probes"])  # one for each probe and view

    def __enter__(self) -> "Records":
        try:
            self._open()
        except BaseException:
            self._open_files.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as last:  # the files are closed whatever fails before
            last.callback(self._open_files.close)
            self._keep_checkpoint_seconds()
            if self._matrices:
                self.write_matrices()

    def _open(self) -> None:
        self._write_loss_curve()
        self._open_files.enter_context(self._metrics)
        self._open_files.enter_context(self._train)
        self._delete_events()
        self._events = EventFile(self.folder, SUFFIX)
        self._open_files.callback(self._events.close)
        self._events.write(custom_scalars(self._charts()))
        self._events.write(text("config", f"```yaml\n{OmegaConf.to_yaml(self.config)}```"))
        if self._kept["metrics"]:
            self._read_back()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write to run.json on which hardware and how the run computes."""
        assert isinstance(pl_module, Classifier)
        device = trainer.strategy.root_device
        hardware = {**self.run_state.entries["hardware"], "cpu": torch.backends.cpu.get_cpu_capability()}
        if device.type == "cuda":
            hardware["gpu"] = torch.cuda.get_device_name(device)
        self.run_state.update(
            hardware=hardware,
            device=str(device),
            devices=trainer.world_size,
            precision=pl_module.compute.precision,
            threads=torch.get_num_threads(),
            deterministic=device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        )

    def record_steps(self, steps: Sequence[StepLoss]) -> None:
        """Write the losses of some steps."""
        rows = [(step, self.schedule.epoch(step), loss, rate, round(speed, 1)) for step, loss, rate, speed in steps]
        self._train.write(map(cells, rows))
        for step, loss, *_ in steps:
            self._draw_loss(step, loss)

    def record(self, results: Sequence[ProbeResult]) -> None:
        """Write the results of a probe."""
        classes = len(self.class_names)
        for result in results:
            step, view, stats = result.step, result.view, result.statistics
            columns: dict[str, Sequence[Any]] = {
                "step": [step] * classes,
                "epoch": [self.schedule.epoch(step)] * classes,
                "split": [view.split] * classes,
                "batch_norm": [view.batch_norm] * classes,
                "class": range(classes),
                "class_name": self.class_names,
                "count": stats.count.long().tolist(),
            }
            columns |= {name: getattr(stats, name).tolist() for name in METRICS if name not in columns}
            self._metrics.write(zip(*(cells(columns[name]) for name in self._metrics.columns), strict=True))
            self._draw_probe(columns)
            matrices = stats.probability_matrix.numpy(), stats.prediction_matrix.numpy()
            self._matrices.append((step, view.batch_norm, *matrices))
        if len(self._matrices) == len(results):  # the first of all, to look at while the others come
            self.write_matrices()

    def records_state(self) -> dict[str, Any]:
        """How much is recorded so far, for a checkpoint."""
        sizes = {"metrics": self._metrics.sync(), "train": self._train.sync()}
        return {**sizes, "probes": len(self._matrices), "seconds": self.run_state.seconds}

    def write_matrices(self) -> None:
        """Write the matrices of all probes so far, as before a checkpoint."""
        self._keep_checkpoint_seconds()
        with replacing(matrices_path(self.folder)) as partial, open(partial, "wb") as stream:
            columns = zip(*self._matrices, strict=True)
            arrays: dict[str, Any] = {name: np.array(column) for name, column in zip(MATRICES, columns, strict=True)}
            np.savez(stream, **arrays)

    def _keep_checkpoint_seconds(self) -> None:
        seconds = self._checkpoint_seconds + self.stopwatch.checkpoints
        self.run_state.set_without_writing(checkpoint_seconds=round(seconds, 3))

    def _draw_probe(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add a probe in one view to TensorBoard: one event with all its scalars."""
        step, mode = int(columns["step"][0]), columns["batch_norm"][0]
        if mode not in self._drawn:
            tags = [tag(mode, name, k, title) for name in QUANTITIES for k, title in enumerate(self.class_names)]
            tags.append(f"dominance/{mode}")
            self._drawn[mode] = Summary(value=[Summary.Value(tag=name) for name in tags])
        values = [value for name in QUANTITIES for value in map(float, columns[name])]
        values.append(max(map(float, columns["guess_fraction"])))
        for drawn, value in zip(self._drawn[mode].value, values, strict=True):
            drawn.simple_value = value
        self._events.write(self._drawn[mode], step)

    def _draw_loss(self, step: int, loss: float) -> None:
        self._events.write(Summary(value=[Summary.Value(tag="train/loss", simple_value=loss)]), step)

    def _read_back(self) -> None:
        """Draw what is kept of the tables again for TensorBoard."""
        with open(self._metrics.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            while rows := list(itertools.islice(reader, len(self.class_names))):
                self._draw_probe({name: [row[name] for row in rows] for name in self._metrics.columns})
        with open(self._train.path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self._draw_loss(int(row["step"]), float(row["loss"]))

    def _charts(self) -> dict[str, dict[str, list[Any]]]:
        """One chart of all runs' dominance, and one per quantity with all classes; tags are regular expressions."""
        return {
            mode: {"dominance": ["Multiline", [f"^dominance/{mode}$"]]}
            | {
                quantity: [
                    "Multiline",
                    [f"^{re.escape(tag(mode, quantity, k, name))}$" for k, name in enumerate(self.class_names)],
                ]
                for quantity in CHARTS
            }
            for mode in self._modes
        }

    def _write_loss_curve(self) -> None:
        with Table(table_path(self.folder, "loss_curve"), LOSS_CURVE) as table:
            for epoch, loss in self._loss_schedule.phases():
                if not isinstance(loss, TrueClassLoss):  # no function of p_y alone
                    continue
                probabilities = curve_points(loss)
                columns = [column.tolist() for column in (probabilities, *loss_curve(loss, probabilities))]
                table.write(cells((epoch, str(loss), *row)) for row in zip(*columns, strict=True))

    def _delete_events(self) -> None:
        """Delete our event files, which are drawn again; those of other programs stay."""
        ours = re.compile(rf"events\.out\.tfevents\..*\d{re.escape(SUFFIX)}")
        former = re.compile(r"events\.out\.tfevents\.\d+\..*\.\d+\.\d+")
        of_schema_1 = bool(self.run_state.previous) and self.run_state.previous.get("schema", 1) == 1
        for file in self.folder.iterdir():
            is_former = of_schema_1 and former.fullmatch(file.name) and FORMER_EVENTS in file.read_bytes()[: 1 << 20]
            if ours.fullmatch(file.name) or is_former:
                file.unlink()


def _kept_matrices(folder: Path, probes: int) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """The first `probes` steps, batch-norm modes and matrices of a run; InputError if they are not all there."""
    if not probes:
        return []
    path = matrices_path(folder)
    try:
        with open(path, "rb") as stream, np.load(stream) as arrays:
            columns = [arrays[name][:probes] for name in MATRICES]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error) if path.exists() else "it is missing"
        raise InputError(
            f"{path} does not have what it had when its checkpoint was written ({reason}); remove {folder} to start "
            "from scratch"
        ) from error
    if min(map(len, columns)) < probes:
        raise InputError(
            f"{path} is shorter than when its checkpoint was written; remove {folder} to start from scratch"
        )
    return [(int(step), str(mode), *pair) for step, mode, *pair in zip(*columns, strict=True)]


def tag(batch_norm: str, quantity: str, k: int, class_name: str) -> str:
    """The TensorBoard tag of a quantity of class k."""
    return f"{quantity}/{batch_norm}/{class_title(k, class_name)}"
