"""The commands `igb`, `igb-report` and `igb-theory`; torch and pandas are imported when they are needed."""

import argparse
import errno
import gc
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

import igb
from igb._checks import InputError, describe, one_line_exit
from igb._environment import drop_stale_variables
from igb._files import make_folder
from igb._paths import config_folder, import_from, is_given
from igb.folder.schema import FINAL, log_path
from igb.sweeps.jobs import check_jobs, label_of_this, refuse_several_devices
from igb.training.stopping import StoppedError

log = logging.getLogger(__name__)


def main() -> None:
    """Run `igb`."""
    if "--version" in sys.argv[1:]:  # Hydra's own would tell of Hydra
        print(f"igb {igb.__version__}")
        return
    _set_up_process()
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
    parser.add_argument("--version", action="version", version=f"igb {igb.__version__}")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run or a sweep; several are combined into one report"
    )
    parser.add_argument("--output", type=Path, help="where to write (default: DIR/report, of the first DIR)")
    parser.add_argument(
        "--align",
        choices=("class", "favoured"),
        help="over seeds, match classes by their number, or by their rank in the initial guess fraction "
        "(default: by rank if seeds favour different classes, else by number)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a run has escaped once its dominance stays below this (default: 0.5)",
    )
    parser.add_argument("--csv", action="store_true", help="also write a table of every row of every run as runs.csv")
    parser.add_argument("--parquet", action="store_true", help="also write that table as runs.parquet")
    arguments = vars(parser.parse_args())
    _set_up_process()

    from igb import report

    with _one_line("igb-report"):
        report.write(arguments.pop("folders"), arguments.pop("output"), **arguments)


def theory() -> None:
    """Run `igb-theory`."""
    parser = argparse.ArgumentParser(
        prog="igb-theory",
        description="What the mean field says of wide random networks: a table of their logits, or phase diagrams.",
    )
    parser.add_argument("--version", action="version", version=f"igb {igb.__version__}")
    parser.add_argument(
        "activations", nargs="+", metavar="ACTIVATION", help="relu, leaky_relu, tanh, erf, gelu, silu, sigmoid, linear"
    )
    parser.add_argument(
        "--weight-variance", metavar="A,B", help="sigma_w^2 (default: 2; of a diagram 100 from 0.04 to 4)"
    )
    parser.add_argument("--bias-variance", metavar="A,B", help="sigma_b^2 (default: 0; of a diagram 101 from 0 to 1)")
    parser.add_argument("--depth", default="10", metavar="A,B", help="layers with weights (default: 10)")
    parser.add_argument("--classes", type=int, default=10, help="for the dominance (default: 10)")
    parser.add_argument("--correlation", type=float, default=0.0, help="of two inputs (default: 0)")
    parser.add_argument("--norm", default="none", help="none, batch_before, batch_after, layer_before, layer_after")
    parser.add_argument("--residual", action="store_true", help="every hidden layer but the first adds its input")
    parser.add_argument("--phase-diagram", action="store_true", help="write phase_diagram.csv, .png and .pdf")
    parser.add_argument(
        "--output", type=Path, help="a folder to write to (default of diagrams: theory); the table as theory.csv"
    )
    arguments = parser.parse_args()
    _set_up_process()

    from igb.theory import tables

    with _one_line("igb-theory"):
        tables.command(**vars(arguments))


@contextmanager
def _one_line(program: str) -> Iterator[None]:
    """Exit with one line for bad input, and for a file that cannot be read or written."""
    try:
        yield
    except InputError as error:
        sys.exit(f"{program}: {error}")
    except OSError as error:
        sys.exit(f"{program}: {error.filename or 'a file'} cannot be read or written ({error.strerror or error})")
    except KeyboardInterrupt:
        sys.exit(130)


@hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")
def _app(config: DictConfig) -> str | float:
    """One run, or one job of a sweep, which goes on after a job that raises; its status or its objective."""
    from pytorch_lightning.utilities import rank_zero_only

    from igb import experiment

    options = HydraConfig.get()
    import_from(options.runtime)
    alone = OmegaConf.is_missing(options.job, "num")
    if not alone:  # each process would go through the sweep
        with one_line_exit():
            refuse_several_devices([config])
    folder = Path(options.runtime.output_dir)
    try:
        status = experiment.run(config, folder, "" if alone else label_of_this(options))
        if config.get("objective") is None or status not in FINAL or vars(rank_zero_only).get("rank", 0) > 0:
            return status  # the first process alone knows when all is recorded
        from igb.report.summary import objective

        return objective(folder, config.objective)
    except StoppedError as stopped:
        sys.exit(128 + stopped.number)
    except Exception as error:
        file = log_path(folder)
        if isinstance(error, InputError):
            log.error("igb: %s", error)
            if error.__cause__ is not None:  # such as an error within a network
                _write_traceback(file)
        elif _is_full(error):
            log.error("igb: the disk of %s is full; make room, and the same command resumes the run", folder)
        else:
            log.error("igb: %s; the traceback is in %s", describe(error), file)
            _write_traceback(file)
        if alone:
            sys.exit(1)
        raise
    finally:
        gc.collect()  # trainer and network refer to each other, and the next job of a sweep needs the memory


class CheckFirst(Callback):
    """Checks a single run, and makes its folder, before Hydra writes there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with one line if a value is invalid or the folder already holds another run."""
        given = is_given(config.hydra, "hydra.run.dir")
        folder = Path(config.hydra.run.dir)
        check_jobs([config], [folder if given else None])
        with one_line_exit(), read_write(config):
            config.hydra.run.dir = str(make_folder(folder, exclusively=not given))


def _set_up_process() -> None:
    """Take out of the environment what would reach into a command for no reason of the user's."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend, which its commands inherit, is not there to draw with
    drop_stale_variables()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack p̄
            stream.reconfigure(errors="backslashreplace")


def _write_traceback(file: Path) -> None:
    with suppress(OSError), open(file, "a", encoding="utf-8") as stream:  # the disk may be full
        traceback.print_exc(file=stream)


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _in_thread(arguments: threading.ExceptHookArgs) -> None:
    """Pass over a full disk, which TensorBoard's thread may find first; its next call from the run raises that."""
    if not _is_full(arguments.exc_value):
        threading.__excepthook__(arguments)
