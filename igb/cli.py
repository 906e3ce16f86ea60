"""The commands `igb` and `igb-report`; torch and pandas are imported when they are needed, so that help is quick."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from igb._checks import InputError
from igb._paths import config_folder, import_from

log = logging.getLogger(__name__)


def main() -> None:
    """Run `igb`."""
    try:
        _app()
    except KeyboardInterrupt:
        sys.exit(130)


def report() -> None:
    """Run `igb-report`."""
    parser = argparse.ArgumentParser(
        prog="igb-report", description="Draw the figures and tables of runs and sweeps, also of those still going on."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run or a sweep; several are read as one"
    )
    parser.add_argument("--output", type=Path, help="where to write; DIR/report (of the first DIR) unless given")
    arguments = parser.parse_args()

    from igb import report

    try:
        report.write(arguments.folders, arguments.output)
    except InputError as error:
        sys.exit(f"igb-report: {error}")


@hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")
def _app(config: DictConfig) -> str:
    """One run, or one job of a sweep; a sweep goes on after a job that raises."""
    from igb import experiment

    options = HydraConfig.get()
    import_from(options.runtime)
    alone = OmegaConf.is_missing(options.job, "num")
    try:
        return experiment.run(config, Path(options.runtime.output_dir))
    except InputError as error:
        log.error("igb: %s", error, exc_info=_full_errors())
        if alone:
            sys.exit(1)
        raise
    except Exception:
        log.exception("igb: the run failed")
        if alone:
            sys.exit(1)
        raise
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        sys.exit(130)


class CheckFirst(Callback):
    """Checks a single run before Hydra makes its folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with one line if a value is not right or the folder is not free."""
        from igb import records

        check_jobs([config], None)
        try:
            records.claim(Path(config.hydra.run.dir))
        except InputError as error:
            sys.exit(f"igb: {error}")


def check_jobs(configs: Sequence[DictConfig], sweep_folder: Path | None) -> None:
    """Exit with one line if a value of a job is not right, or if its folder in the sweep holds a run already."""
    from igb import experiment, records

    for config in configs:
        import_from(config.hydra.runtime)
        try:
            experiment.build(config)
            if sweep_folder is not None:
                records.refuse_taken(sweep_folder / config.hydra.sweep.subdir)
        except InputError as error:
            if _full_errors():
                raise
            sys.exit(f"igb: {error}")


def _full_errors() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
