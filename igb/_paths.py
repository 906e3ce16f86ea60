"""Where igb's config is, and where a user's code is found."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from igb._checks import InputError


def config_folder() -> Path:
    """The folder of config groups: in the wheel beside this file, in a clone at the top."""
    packed = Path(__file__).parent / "conf"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "conf"


def import_from(runtime: Any) -> None:
    """Put the folder given with `--config-dir` on sys.path, so that a `_target_` can name a file beside the config.

    It comes last, so that a file of the user's shadows no module of Python's or of a package. `runtime` is that of
    Hydra's own config of a run. Raises InputError as `refuse_hidden` does.
    """
    for source in runtime.config_sources:
        if source.provider == "command-line":
            refuse_hidden(Path(source.path))
            if source.path not in sys.path:
                sys.path.append(source.path)


def refuse_hidden(folder: Path) -> None:
    """Raise InputError if an option in a folder of the user's has the name of one of igb's, which Hydra would take."""
    for file in sorted(folder.glob("*/**/*.yaml")):
        if (config_folder() / file.relative_to(folder)).exists():
            raise InputError(f"{file} has the name of an option of igb's own, which would be taken instead; rename it")


def user_config_folders() -> list[Path]:
    """The config folders that the command line of this process gives beside igb's own."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    paths = [Path(source.path) for source in sources if source.provider in ("command-line", "main")]
    return [path for path in paths if path != config_folder()]


def is_given(hydra: Any, key: str) -> bool:
    """Whether the command line sets a key of Hydra's own config."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)  # they may hold interpolations
    return any(str(override).lstrip("+").startswith(f"{key}=") for override in overrides)


def quoted(text: str) -> str:
    """A value as a string in the grammar of Hydra's overrides."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
