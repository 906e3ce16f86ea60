"""The config group `logger`: a logger of Lightning's beside the records, such as that of W&B or of MLflow."""

import csv
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
        resumes: whether the run resumes. Then it goes on in the same run of the logger, if that can be, without what
            that has already: a resumed run comes to the same numbers.

    Raises InputError if the logger's run cannot be started.
    """

    def __init__(
        self,
        make: Callable[..., Logger],
        config: DictConfig,
        state: RunState,
        label: str,
        class_names: Sequence[str],
        resumes: bool,
    ) -> None:
        run = state.previous.get("logger_run") if resumes and "run" in (config.logger.get("given") or {}) else None
        logger = make(**arguments(config.logger, folder=str(state.folder), label=label, run=run))
        self._logger: Logger | None = logger
        self._logged = set(_recorded(state.folder)) if run else set()
        self._titles = [class_title(k, name) for k, name in enumerate(class_names)]
        if not config.logger.classes:
            self._titles = []
        try:
            _ = logger.experiment  # type: ignore[attr-defined]  # which starts its run
            state.set_without_writing(logger_run=logger.version)
            if not run:
                parameters = OmegaConf.to_container(config, resolve=True)
                assert isinstance(parameters, dict)
                logger.log_hyperparams({str(key): value for key, value in parameters.items()})
        except Exception as error:
            raise InputError(f"logger: {type(error).__name__}: {one_line(error)}") from error

    def probe(self, step: int, mode: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Log a probe in one batch-norm mode: its dominance, and of each column the mean and the classes' values."""
        values = {f"dominance/{mode}": max(columns["guess_fraction"])}
        for name in QUANTITIES:
            values[f"{name}/{mode}/mean"] = fmean(columns[name])
            values |= {_safe(f"{name}/{mode}/{title}"): columns[name][k] for k, title in enumerate(self._titles)}
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


def _recorded(folder: Path) -> Iterator[tuple[int, str]]:
    """The step and the mode of every probe that a run's files hold, and the step of every loss."""
    for name in ("metrics", "train"):
        if table_path(folder, name).exists():
            with open(table_path(folder, name), newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    if (row.get("step") or "").isdigit():  # as in all but a torn last row
                        yield int(row["step"]), row.get("batch_norm") or LOSS


def _safe(tag: str) -> str:
    """A name that MLflow allows."""
    return re.sub(r"[^\w/. -]", "_", tag, flags=re.ASCII)
