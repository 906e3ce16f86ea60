"""The commands `igb` and `igb-report`; torch and pandas are imported when they are needed, so that help is quick."""

import argparse
import errno
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from igb._checks import InputError, one_line
from igb._imports import quick_imports
from igb._paths import checkpoint_path, config_folder, import_from, is_given, log_path, make_folder
from igb.stopping import Stop, StoppedError

REQUEUE_SECONDS = 20  # for SLURM to answer

log = logging.getLogger(__name__)


def main() -> None:
    """Run `igb`."""
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    threading.excepthook = _in_thread
    try:
        _app()
    except KeyboardInterrupt:
        sys.exit(130)


def report() -> None:
    """Run `igb-report`."""
    parser = argparse.ArgumentParser(
        prog="igb-report",
        description="Write the page, figures and tables of runs and sweeps, also of those still going on.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run or a sweep; several are read as one"
    )
    parser.add_argument("--output", type=Path, help="where to write; DIR/report (of the first DIR) unless given")
    parser.add_argument(
        "--align",
        choices=("class", "favoured"),
        default="class",
        help="over seeds, take classes together by their number, or by their rank in the initial guess fraction",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="dominance under which a run has escaped; 0.5 unless given"
    )
    parser.add_argument("--csv", action="store_true", help="write every row of every run as runs.csv too")
    parser.add_argument("--parquet", action="store_true", help="the same as runs.parquet")
    arguments = vars(parser.parse_args())

    from igb import report

    try:
        report.write(arguments.pop("folders"), arguments.pop("output"), **arguments)
    except InputError as error:
        sys.exit(f"igb-report: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def slurm_job(arguments: Sequence[str], folder: Path, seconds: float) -> None:
    """Run `igb` in a task of a SLURM job that has so many seconds; its log in the run's folder takes all it prints.

    A job that SLURM told to stop (SIGUSR2: near its limit, or about to be preempted) is queued again, its checkpoint
    written, unless its time did not get it as far as that. SIGTERM is what `scancel` and SLURM's own requeue send, and
    is left to them.
    """
    from igb import slurm

    started, before = time.monotonic(), _written(checkpoint_path(folder))
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if not first:  # the first alone writes
        arguments = [*arguments, "hydra.output_subdir=null"]
    with open(log_path(folder), "ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.argv = ["igb", *arguments]
    status: object = 0
    with Stop():  # from the start: submitit's own handlers would act on what comes before the run's
        try:
            main()
        except StoppedError as stopped:
            status = 128 + stopped.number
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
    if status == 128 + signal.SIGUSR2 and not first:
        time.sleep(REQUEUE_SECONDS)  # a task that fails takes down the others, of which the first is at the next line
    elif status == 128 + signal.SIGUSR2:
        advanced = _written(checkpoint_path(folder)) != before
        if advanced or time.monotonic() - started < seconds / 2:
            slurm.requeue()
        else:
            print("igb: hydra.launcher.time is too short for a first step; the job is not queued again")
    if status:
        sys.exit(1)


def _written(file: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    return file.stat().st_mtime_ns if file.exists() else None


@hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")
def _app(config: DictConfig) -> str:
    """One run, or one job of a sweep; a sweep goes on after a job that raises."""
    from igb import experiment

    options = HydraConfig.get()
    import_from(options.runtime)
    alone = OmegaConf.is_missing(options.job, "num")
    folder = Path(options.runtime.output_dir)
    try:
        return experiment.run(config, folder)
    except StoppedError as stopped:
        sys.exit(128 + stopped.number)
    except Exception as error:
        if isinstance(error, InputError):
            log.error("igb: %s", error)
        elif _is_full(error):
            log.error("igb: the disk of %s is full; make room, and the same command goes on with the run", folder)
        else:
            file = log_path(folder)
            log.error("igb: %s; the traceback is in %s", _named(error), file)
            with suppress(OSError), open(file, "a") as stream:  # the disk may be full
                traceback.print_exc(file=stream)
        if alone:
            sys.exit(1)
        raise
    finally:
        gc.collect()  # trainer and network refer to each other, and the next job of a sweep needs the memory


class CheckFirst(Callback):
    """Checks a single run, and makes its folder, before Hydra writes there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with one line if a value is not right or the folder is not free."""
        given = is_given(config.hydra, "hydra.run.dir")
        folder = Path(config.hydra.run.dir)
        check_jobs([config], [folder if given else None])
        with one_line_exit(), read_write(config):
            config.hydra.run.dir = str(make_folder(folder, exclusively=not given))


def check_jobs(configs: Sequence[DictConfig], paths: Sequence[Path | None], here: bool = True) -> None:
    """Exit with one line if a value of a job is not right, or its folder, where it may be old, holds another run.

    `here` is whether the jobs are to be on this machine.
    """
    with one_line_exit():
        with quick_imports():
            from igb import experiment, folders

        for config, folder in zip(configs, paths, strict=True):
            import_from(config.hydra.runtime)
            experiment.build(config, here)
            if folder is not None:
                folders.refuse_other(folder, without_hydra(config))
                folders.finished(folder, config)


def without_hydra(config: DictConfig) -> DictConfig:
    """The config of a run as it is recorded, less Hydra's own."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config


@contextmanager
def one_line_exit() -> Iterator[None]:
    """Exit with one line for bad input, and a traceback for all else; Hydra would only warn of a callback's error."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, InputError | OmegaConfBaseException | OSError)
        if not known or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        sys.exit(f"igb: {_named(error)}")


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _in_thread(arguments: threading.ExceptHookArgs) -> None:
    """Pass over a full disk, which TensorBoard's thread may find first; its next call from the run raises that."""
    if not _is_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
