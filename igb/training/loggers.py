"""The config group `logger`: a logger of Lightning's beside the records, such as that of W&B or of MLflow."""

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from igb._checks import InputError, one_line
from igb.folder.schema import QUANTITIES, class_title, table_path
from igb.folder.state import RunState

OF_IGB = ("given", "classes")  # keys of the group that are not the logger's
KNOWN = ("folder", "label", "run")  # what igb can give a logger
MOST = 1000  # numbers at once, which is MLflow's limit
LOSS = ""  # in place of the batch-norm mode of a probe

log = logging.getLogger(__name__)


class RunLogger:
    """Passes the config, the probes and the losses of a run on to a logger of Lightning's.

    After an error it is left alone, with a warning: the records do not depend on it.

    Args:
        make: makes the logger, from the arguments that `given` of the group names.
        config: the run's config.
        state: the run's state, where the id of the logger's run is kept.
        label: what to call the run.
        class_names: the names of the data's classes.
        kept: what the run has of its records, if it resumes. Then it goes on in the same run of the logger, if that
            can be, without what that has up to the checkpoint.

    Raises InputError if the logger's run cannot be started.
    """

    def __init__(
        self,
        make: Callable[..., Logger],
        config: DictConfig,
        state: RunState,
        label: str,
        class_names: Sequence[str],
        kept: Mapping[str, Any],
    ) -> None:
        resumes = bool(kept["metrics"])
        before = state.previous.get("logger_run") if resumes else None
        target, given = str(config.logger._target_), config.logger.get("given") or {}
        run = before["run"] if before and before.get("target") == target and "run" in given else None
        known = {"folder": str(state.folder), "label": label}
        self._titles = [_safe(class_title(k, name)) for k, name in enumerate(class_names)]
        if not config.logger.get("classes", True):
            self._titles = []
        self._logger: Logger | None = None
        try:
            logger = make(**arguments(config.logger, **known, run=run))
            _ = logger.experiment  # type: ignore[attr-defined]  # which starts its run
        except Exception as error:
            if run is None:
                raise InputError(f"logger: {type(error).__name__}: {one_line(error)}") from error
            log.warning("the logger does not go on with its run %s (%s) and begins another", run, one_line(error))
            run = None
            logger = make(**arguments(config.logger, **known))
        self._logger = logger
        self._logged = set(_recorded(state.folder, kept)) if run else set()
        try:
            _ = logger.experiment  # type: ignore[attr-defined]
            state.set_without_writing(logger_run={"target": target, "run": logger.version})
            if not run:
                parameters = OmegaConf.to_container(config, resolve=True)
                assert isinstance(parameters, dict)
                logger.log_hyperparams({str(key): value for key, value in parameters.items()})
        except Exception as error:
            self.finish(has_failed=True)
            raise InputError(f"logger: {type(error).__name__}: {one_line(error)}") from error

    def probe(self, step: int, mode: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Log a probe in one batch-norm mode: its dominance, and of each column the mean and the classes' values."""
        values = {f"dominance/{mode}": max(columns["guess_fraction"])}
        for name in QUANTITIES:
            values[f"{name}/{mode}/mean"] = fmean(columns[name])
            values |= {f"{name}/{mode}/{title}": columns[name][k] for k, title in enumerate(self._titles)}
        self._log(step, mode, values)

    def loss(self, step: int, loss: float) -> None:
        """Log the loss of a step."""
        self._log(step, LOSS, {"train/loss": loss})

    def finish(self, has_failed: bool) -> None:
        """End the logger's run."""
        logger, self._logger = self._logger, None
        if logger is None:
            return
        try:
            logger.finalize("failed" if has_failed else "success")
            finish = getattr(logger.experiment, "finish", None)  # type: ignore[attr-defined]
            if finish is not None:  # of W&B, which else would add the next job of a sweep to this run
                finish(exit_code=int(has_failed))
        except Exception as error:
            log.warning("the logger could not be finished (%s: %s)", type(error).__name__, one_line(error))

    def _log(self, step: int, kind: str, values: dict[str, float]) -> None:
        if self._logger is None or (step, kind) in self._logged:
            return
        items = list(values.items())
        try:
            for start in range(0, len(items), MOST):
                self._logger.log_metrics(dict(items[start : start + MOST]), step=step)
            self._logger.save()
        except Exception as error:
            log.warning("the logger gets no more of this run (%s: %s)", type(error).__name__, one_line(error))
            self._logger = None


def arguments(config: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """The arguments of a logger that igb gives it; InputError if the group asks for what it does not know."""
    given = config.get("given") or {}
    for name in given:
        if name not in KNOWN:
            raise InputError(f"logger.given.{name} must be one of {', '.join(KNOWN)}")
    return {argument: known[name] for name, argument in given.items() if known.get(name) not in (None, "")}


def _recorded(folder: Path, kept: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The step and the mode of every probe, and the step of every loss, in the bytes that a checkpoint keeps."""
    for name in ("metrics", "train"):
        with open(table_path(folder, name), "rb") as file:
            text = file.read(kept[name]).decode()
        for row in csv.DictReader(io.StringIO(text, newline="")):
            yield int(row["step"]), row.get("batch_norm", LOSS)


def _safe(title: str) -> str:
    """The title of a class with what MLflow allows in a part of a name."""
    return re.sub(r"[^\w. -]", "_", title, flags=re.ASCII)
