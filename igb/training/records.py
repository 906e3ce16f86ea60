"""The records of a run: what its folder holds, written so that it can be read while the run goes on."""

import contextlib
import csv
import datetime
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter

from igb import _slurm
from igb._checks import InputError, one_line
from igb._files import make_folder, replacing, sync
from igb.folder import lock, state
from igb.losses import LossSchedule, TrueClassLoss, curve_points, loss_curve
from igb.training.classifier import Classifier
from igb.training.probe import Probe, ProbeResult
from igb.training.step_losses import DivergedError, Step, Steps
from igb.training.stopping import StoppedError

METRICS = ("probability", "accuracy", "mean_probability", "guess_fraction", "loss", "gradient_norm", "active_fraction")
METRICS_HEADER = ("step", "epoch", "batch_norm", "class", "class_name", "count", *METRICS)
# The order of TensorBoard's charts, those that answer first in front.
CHARTS = ("probability", "accuracy", "guess_fraction", "gradient_norm", "mean_probability", "loss", "active_fraction")
MATRICES = ("step", "batch_norm", "probability", "prediction")
TRAIN_HEADER = ("step", "epoch", "loss", "lr", "images_per_second")
LOSS_CURVE_HEADER = ("from_epoch", "name", "p_y", "loss", "gradient")
PACKAGES = ("igb", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")

log = logging.getLogger(__name__)


class Records(pl.Callback):
    """Writes a run's folder; as a context manager it also settles how the run ended.

    Args:
        folder: the run's folder; InputError if it cannot be written.
        probe: whose results are recorded.
        steps: which are recorded.
        config: the run's config.
    """

    def __init__(self, folder: Path, probe: Probe, steps: Steps, config: DictConfig) -> None:
        make_folder(folder, exclusively=False)
        self.folder, self.probe, self.config = folder, probe, config
        self.status = "running"
        self.former = state.read(folder) or {}  # run.json of the process that this one goes on from
        seeds = {key: config[key] for key in ("seed", "init_seed", "data_seed")}
        started = datetime.datetime.now(datetime.UTC).isoformat()
        entries = {"status": self.status, "started": started, **self.former, "seeds": seeds, **environment()}
        self._entries: dict[str, Any] = entries
        self._entries.pop("reason", None)
        self._entries["slurm_job"] = _slurm.own_job()
        self._entries["config"] = OmegaConf.to_container(config)  # Hydra's file is not under the lock
        self._started = time.perf_counter()
        self._kept: dict[str, Any] = {"metrics": 0, "train": 0, "probes": 0, "seconds": 0.0}
        self._lock = lock.Lock(folder)
        self._files: list[Any] = []  # what is flushed after each record and closed at the end
        self._matrices: list[tuple[int, str, np.ndarray, np.ndarray]] = []  # one for each probe and mode
        probe.record, steps.record = self.record, self.record_steps

    def __enter__(self) -> "Records":
        return self

    def start(self) -> None:
        """Take the folder; raise InputError if another process has it."""
        self._lock.acquire()
        if not (hydra_config := self.folder / ".hydra" / "config.yaml").exists():  # a run started from Python
            hydra_config.parent.mkdir(exist_ok=True)
            OmegaConf.save(self.config, hydra_config)
        self._write_entries()

    def go_on(self, state: dict[str, Any], step: int) -> None:
        """Go on from what `state` gave when a checkpoint was written after `step` steps; what came later is dropped."""
        self._kept = state
        self._entries["resumed"] = [*self.former.get("resumed", []), step]

    def state(self) -> dict[str, Any]:
        """How much is recorded, to be kept in a checkpoint."""
        self._flush()
        tables = {name: self.folder / f"{name}.csv" for name in ("metrics", "train")}
        for table in tables.values():
            sync(table)
        sizes = {name: table.stat().st_size for name, table in tables.items()}
        return {**sizes, "probes": len(self._matrices), "seconds": self._seconds()}

    def add_checkpoint_seconds(self, seconds: float) -> None:
        """Add to what run.json says that checkpoints took."""
        self._entries["checkpoint_seconds"] = round(self._entries.get("checkpoint_seconds", 0.0) + seconds, 3)

    def settle(self) -> None:
        """Write what is held back, before a checkpoint."""
        self._write_matrices()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._lock.held:
            return
        if isinstance(error, StoppedError | KeyboardInterrupt | SystemExit):
            self.status = "interrupted"
        elif isinstance(error, DivergedError):
            self.status = "diverged"
        else:
            self.status = "completed" if error is None else "failed"
        if self.status in ("failed", "interrupted"):
            self._entries["reason"] = one_line(error)  # type: ignore[arg-type]
        with contextlib.ExitStack() as last:  # what is done whatever fails before it, the status at the very end
            last.callback(self._lock.release)
            last.callback(self._write_entries)
            for file in self._files:
                last.callback(file.close)
            if self._matrices:
                self._write_matrices()
        log.info("%s: %s", self.status if self.status != "diverged" else f"diverged ({error})", self.folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is known before training and state the plan in one line."""
        assert isinstance(pl_module, Classifier)
        data, device = trainer.datamodule, trainer.strategy.root_device  # type: ignore[attr-defined]
        self._class_names: Sequence[str] = data.class_names
        self._steps_per_epoch: int = data.steps_per_epoch
        self._entries |= {
            "class_names": list(data.class_names),
            "steps_per_epoch": data.steps_per_epoch,
            "total_steps": self.probe.total_steps,
            "device": str(device),
            "devices": trainer.world_size,
            "precision": pl_module.compute.precision,
            "threads": torch.get_num_threads(),
            "deterministic": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        }
        self._write_entries()
        self._write_loss_curve(pl_module.losses)
        self._metrics = self._table("metrics", METRICS_HEADER)
        self._train = self._table("train", TRAIN_HEADER)
        for file in self.folder.glob("events.out.tfevents.*"):
            file.unlink()
        self._tensorboard = SummaryWriter(str(self.folder))
        self._files.append(self._tensorboard)
        self._tensorboard.add_custom_scalars(self._charts())
        self._tensorboard.add_text("config", f"```yaml\n{OmegaConf.to_yaml(self.config)}```")
        if self._kept["metrics"]:
            self._read_back()
        log.info(
            "plan: %s probes of %s images, %s steps",
            f"{len(self.probe.steps):,}",
            f"{self.probe.images_per_probe:,}",
            f"{self.probe.total_steps:,}",
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the run stands, where no progress bar does."""
        if not trainer.progress_bar_callback:
            log.info("epoch %d of %d: dominance %.2f", *self._epoch_line(trainer))

    def _epoch_line(self, trainer: pl.Trainer) -> tuple[int, int, float]:
        epochs = math.ceil(self.probe.total_steps / self._steps_per_epoch)
        return trainer.current_epoch + 1, epochs, self._dominance

    def _seconds(self) -> float:
        """Spent on what is recorded, in the processes before this one too."""
        return float(self._kept["seconds"]) + time.perf_counter() - self._started

    def record_steps(self, steps: Sequence[Step]) -> None:
        """Write the losses of some steps."""
        for step, loss, rate, speed in steps:
            self._train.writerow((step, step / self._steps_per_epoch, loss, rate, round(speed, 1)))
            self._draw_loss(step, loss)
        self._flush()

    def record(self, results: Sequence[ProbeResult]) -> None:
        """Write what a probe saw."""
        self._dominance = results[0].statistics.dominance
        for result in results:
            stats = result.statistics
            columns = [getattr(stats, name).tolist() for name in METRICS]
            epoch = result.step / self._steps_per_epoch
            rows = [
                (
                    result.step,
                    epoch,
                    result.batch_norm,
                    k,
                    name,
                    int(stats.count[k]),
                    *(column[k] for column in columns),
                )
                for k, name in enumerate(self._class_names)
            ]
            self._metrics.writerows(rows)
            self._draw_probe([dict(zip(METRICS_HEADER, row, strict=True)) for row in rows])
            matrices = stats.probability_matrix.numpy(), stats.prediction_matrix.numpy()
            self._matrices.append((result.step, result.batch_norm, *matrices))
        self._flush()
        if len(self._matrices) == len(results):  # the first of all, to look at while the others come
            self._write_matrices()

    def _draw_probe(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of a probe in one mode to TensorBoard."""
        step, mode = int(rows[0]["step"]), rows[0]["batch_norm"]
        for row in rows:
            for metric in METRICS:
                name = tag(mode, metric, int(row["class"]), row["class_name"])
                self._tensorboard.add_scalar(name, float(row[metric]), step)
        dominance = max(float(row["guess_fraction"]) for row in rows)
        self._tensorboard.add_scalar(f"dominance/{mode}", dominance, step)

    def _draw_loss(self, step: int, loss: float) -> None:
        self._tensorboard.add_scalar("train/loss", loss, step)

    def _read_back(self) -> None:
        """Take up what is kept of the tables and matrices, and draw it anew for TensorBoard."""
        with open(self.folder / "metrics.csv", newline="") as file:
            reader = csv.DictReader(file)
            while rows := list(itertools.islice(reader, len(self._class_names))):
                self._draw_probe(rows)
        with open(self.folder / "train.csv", newline="") as file:
            for row in csv.DictReader(file):
                self._draw_loss(int(row["step"]), float(row["loss"]))
        with np.load(self.folder / "matrices.npz") as file:
            columns = [file[name][: self._kept["probes"]] for name in MATRICES]
        self._matrices = [(int(step), str(mode), *pair) for step, mode, *pair in zip(*columns, strict=True)]
        self._flush()

    def _flush(self) -> None:
        for file in self._files:
            file.flush()

    def _table(self, name: str, header: Sequence[str]) -> Any:
        """A CSV file, with what is kept of it, to be added to."""
        path, kept = self.folder / f"{name}.csv", self._kept[name]
        if kept and (not path.exists() or path.stat().st_size < kept):
            raise InputError(
                f"{path} is shorter than when its checkpoint was written; remove {self.folder} to start anew"
            )
        file = open(path, "r+" if kept else "w", newline="", buffering=1 << 20)  # noqa: SIM115  (flushed per probe, closed at exit)
        self._files.append(file)
        file.truncate(kept)
        file.seek(0, os.SEEK_END)
        writer = csv.writer(file, lineterminator="\n")
        if not kept:
            writer.writerow(header)
            file.flush()
        return writer

    def _charts(self) -> dict[str, dict[str, list[Any]]]:
        """One chart of all runs' dominance, and one a quantity with all classes; tags are regular expressions."""
        return {
            mode: {"dominance": ["Multiline", [f"^dominance/{mode}$"]]}
            | {
                metric: [
                    "Multiline",
                    [f"^{re.escape(tag(mode, metric, k, name))}$" for k, name in enumerate(self._class_names)],
                ]
                for metric in CHARTS
            }
            for mode in self.probe.modes
        }

    def _write_loss_curve(self, losses: LossSchedule) -> None:
        with open(self.folder / "loss_curve.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LOSS_CURVE_HEADER)
            for epoch, loss in losses.phases():
                if not isinstance(loss, TrueClassLoss):  # no function of p_y alone
                    continue
                probabilities = curve_points(loss)
                values, gradients = loss_curve(loss, probabilities)
                for row in zip(probabilities.tolist(), values.tolist(), gradients.tolist(), strict=True):
                    writer.writerow((epoch, str(loss), *row))

    def _write_matrices(self) -> None:
        with replacing(self.folder / "matrices.npz") as partial, open(partial, "wb") as stream:
            columns = zip(*self._matrices, strict=True)
            arrays: dict[str, Any] = {name: np.array(column) for name, column in zip(MATRICES, columns, strict=True)}
            np.savez(stream, **arrays)

    def _write_entries(self) -> None:
        entries = {
            **self._entries,
            "status": self.status,
            "wall_seconds": round(self._seconds(), 3),
            "peak_memory_bytes": max(peak_memory(), self.former.get("peak_memory_bytes", 0)),
        }
        with replacing(self.folder / "run.json") as partial:
            partial.write_text(json.dumps(entries, indent=2) + "\n")


def tag(batch_norm: str, metric: str, k: int, class_name: str) -> str:
    """The TensorBoard tag of a quantity of class k."""
    return f"{metric}/{batch_norm}/{k} {class_name}"


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on besides its config."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    hardware = {"machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "hardware": hardware}


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; in a sweep the jobs before are counted in."""
    with contextlib.suppress(OSError, KeyError):  # Linux; the other source counts in the process that started this one
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
