"""The tables, matrices and TensorBoard events of a run, readable while it is running."""

import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, text

from igb.folder.schema import (
    LABELS,
    LOSS_CURVE,
    MEMORISATION,
    MEMORISATION_CLASSES,
    METRICS,
    QUANTITIES,
    TRAIN,
    class_title,
    table_path,
)
from igb.folder.state import RunState
from igb.losses import LossSchedule, ProbabilityLoss, loss_curves
from igb.schedule import Schedule
from igb.training.classifier import Classifier
from igb.training.events import EventFile, Scalars
from igb.training.loggers import RunLogger
from igb.training.matrices import MatrixStore
from igb.training.probe import Probe, ProbeResult, View
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
        probe: the options of the probe: the batch-norm modes that TensorBoard draws, and whether matrices are written.
        schedule: the run's step schedule.
        stopwatch: the run's stopwatch.
        memorises: whether wrong labels are measured too, in memorisation.csv and memorisation_classes.csv.
        make_logger: makes the run's logger, told whether the run resumes; None for a run without.
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
        memorises: bool = False,
        make_logger: Callable[..., RunLogger] | None = None,
        kept: Mapping[str, Any] = NO_RECORDS,
    ) -> None:
        self.run_state, self.folder, self.config, self.class_names = state, state.folder, config, class_names
        self.schedule, self.stopwatch, self._kept = schedule, stopwatch, kept
        self._loss_schedule, self._modes = loss_schedule, list(dict.fromkeys(view.batch_norm for view in probe.views))
        self._checkpoint_seconds = float(state.previous.get("checkpoint_seconds", 0.0)) if kept["metrics"] else 0.0
        self._open_files = ExitStack()
        self._of_classes = {"class": cells(range(len(class_names))), "class_name": cells(class_names)}
        self._drawn: dict[str, Scalars] = {}  # of each batch-norm mode
        self._metrics = Table(table_path(self.folder, "metrics"), list(METRICS), kept["metrics"])
        self._train = Table(table_path(self.folder, "train"), list(TRAIN), kept["train"])
        columns = {"memorisation": MEMORISATION, "memorisation_classes": MEMORISATION_CLASSES} if memorises else {}
        self._memorisation = {
            name: Table(table_path(self.folder, name), list(columns[name]), kept.get(name, 0)) for name in columns
        }
        self._probes = kept["probes"]  # and views
        written = kept.get("matrices", self._probes) if probe.matrices else 0
        self._matrices = MatrixStore(self.folder, len(class_names), self._probes, written)
        self._writes_matrices = probe.matrices
        self._make_logger = make_logger
        self._logger: RunLogger | None = None

    def __enter__(self) -> "Records":
        try:
            self._open()
        except BaseException:
            if self._logger is not None:
                self._logger.finish(has_failed=True)
            self._open_files.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as last:  # the files are closed whatever fails before
            last.callback(self._open_files.close)
            if self._logger is not None:
                self._logger.finish(has_failed=error is not None and getattr(error, "status", None) != "diverged")
            self._keep_checkpoint_seconds()

    def _open(self) -> None:
        if self._make_logger is not None:  # before the files lose what comes after the checkpoint
            self._logger = self._make_logger(kept=self._kept)
        else:
            self.run_state.entries.pop("logger_run", None)  # which lacks what comes now
        self._write_loss_curve()
        self._open_files.enter_context(self._metrics)
        self._open_files.enter_context(self._train)
        for table in self._memorisation.values():
            self._open_files.enter_context(table)
        self._open_files.enter_context(self._matrices)
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
            step, (split, batch_norm), stats = result.step, result.view, result.statistics
            of_probe: dict[str, int | float | str] = {
                "step": step,
                "epoch": self.schedule.epoch(step),
                "split": split,
                "batch_norm": batch_norm,
            }
            written = {name: cells([value]) * classes for name, value in of_probe.items()} | self._of_classes
            values = {name: getattr(stats, name).tolist() for name in METRICS if name not in written}
            values["count"] = stats.count.long().tolist()
            written |= {name: cells(column) for name, column in values.items()}
            self._metrics.write(zip(*(written[name] for name in self._metrics.columns), strict=True))
            self._draw_probe(step, batch_norm, values)
            if self._writes_matrices:
                self._matrices.write(self._probes, stats.probability_matrix.numpy(), stats.prediction_matrix.numpy())
            self._probes += 1

    def record_memorisation(self, step: int, view: View, table: Tensor) -> None:
        """Write what a network makes of clean and of wrong labels, as `memorisation` gives it."""
        known = (step, self.schedule.epoch(step), view.batch_norm)
        of_all: list[list[str]] = []
        of_classes: list[list[str]] = []
        for group, rows in zip(LABELS, table.tolist(), strict=True):
            for k, (count, *means) in enumerate(rows, start=-1):
                if k < 0:
                    of_all.append(cells([*known, group, int(count), *means]))
                else:
                    of_classes.append(cells([*known, group, k, int(count), *means]))
        self._memorisation["memorisation"].write(of_all)
        self._memorisation["memorisation_classes"].write(of_classes)

    def records_state(self) -> dict[str, Any]:
        """Flush the files to the disk, and return how much is recorded so far, for a checkpoint."""
        self._keep_checkpoint_seconds()
        sizes = {"metrics": self._metrics.sync(), "train": self._train.sync(), "matrices": self._matrices.sync()}
        sizes |= {name: table.sync() for name, table in self._memorisation.items()}
        return {**sizes, "probes": self._probes, "seconds": self.run_state.seconds}

    def _keep_checkpoint_seconds(self) -> None:
        seconds = self._checkpoint_seconds + self.stopwatch.checkpoints
        self.run_state.set_without_writing(checkpoint_seconds=round(seconds, 3))

    def _draw_probe(self, step: int, mode: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Add a probe in one batch-norm mode to TensorBoard: one event with all its scalars."""
        if mode not in self._drawn:
            tags = [tag(mode, name, k, title) for name in QUANTITIES for k, title in enumerate(self.class_names)]
            tags.append(f"dominance/{mode}")
            self._drawn[mode] = Scalars(tags)
        values = [value for name in QUANTITIES for value in columns[name]]
        values.append(max(columns["guess_fraction"]))
        self._events.write(self._drawn[mode].serialized(values), step)
        if self._logger is not None:
            self._logger.probe(step, mode, columns)

    def _draw_loss(self, step: int, loss: float) -> None:
        self._events.write(Summary(value=[Summary.Value(tag="train/loss", simple_value=loss)]), step)
        if self._logger is not None:
            self._logger.loss(step, loss)

    def _read_back(self) -> None:
        """Draw what is kept of the tables again for TensorBoard."""
        with open(self._metrics.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            while rows := list(itertools.islice(reader, len(self.class_names))):
                values = {name: [float(row[name]) for row in rows] for name in QUANTITIES}
                self._draw_probe(int(rows[0]["step"]), rows[0]["batch_norm"], values)
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
        with Table(table_path(self.folder, "loss_curve"), list(LOSS_CURVE)) as table:
            for epoch, loss in self._loss_schedule.phases():
                if not isinstance(loss, ProbabilityLoss):  # of which one cannot tell what it depends on
                    continue
                for name, columns in loss_curves(loss, len(self.class_names)):
                    rows = zip(*(column.tolist() for column in columns), strict=True)
                    table.write(cells((epoch, name, *row)) for row in rows)

    def _delete_events(self) -> None:
        """Delete our event files, which are drawn again; those of other programs stay."""
        ours = re.compile(rf"events\.out\.tfevents\..*\d{re.escape(SUFFIX)}")
        former = re.compile(r"events\.out\.tfevents\.\d+\..*\.\d+\.\d+")
        of_schema_1 = bool(self.run_state.previous) and self.run_state.previous.get("schema", 1) == 1
        for file in self.folder.iterdir():
            is_former = of_schema_1 and former.fullmatch(file.name) and FORMER_EVENTS in file.read_bytes()[: 1 << 20]
            if ours.fullmatch(file.name) or is_former:
                file.unlink()


def tag(batch_norm: str, quantity: str, k: int, class_name: str) -> str:
    """The TensorBoard tag of a quantity of class k."""
    return f"{quantity}/{batch_norm}/{class_title(k, class_name)}"
