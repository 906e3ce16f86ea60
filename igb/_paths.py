"""Where igb's config is, and where a user's code is found."""

import sys
from pathlib import Path
from typing import Any


def config_folder() -> Path:
    """The folder of config groups: in the wheel beside this file, in a clone at the top."""
    packed = Path(__file__).parent / "conf"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "conf"


def import_from(runtime: Any) -> None:
    """Put the folder given with `--config-dir` on sys.path, so that a `_target_` can name a file beside the config.

    `runtime` is that of Hydra's own config of a run.
    """
    for source in runtime.config_sources:
        if source.provider == "command-line" and source.path not in sys.path:
            sys.path.insert(0, source.path)
