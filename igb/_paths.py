"""Where igb's config is, where a user's code is found, and where a run or a sweep writes."""

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from igb._checks import InputError

NEEDED = 1 << 16  # bytes that a folder must have room for, lest the first lines of a run find the disk full


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


def log_path(folder: Path) -> Path:
    """Where all that a run says is kept; conf/config.yaml has it too."""
    return folder / "igb.log"


def checkpoint_path(folder: Path) -> Path:
    """Where a run keeps its last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def make_folder(folder: Path, *, exclusively: bool) -> Path:
    """Make a folder that can be written, and return it; InputError if that cannot be.

    `exclusively` makes a new one, with a number at its end if the name is taken.
    """
    wanted = folder
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=not exclusively)
            try:
                (folder / ".writable").write_bytes(bytes(NEEDED))
            finally:
                (folder / ".writable").unlink(missing_ok=True)
            break
        except OSError as error:
            taken = isinstance(error, FileExistsError) and folder.is_dir()
            if not (exclusively and taken):
                raise InputError(f"the output folder {folder} cannot be written ({error.strerror})") from error
            folder = wanted.with_name(f"{wanted.name}_{number}")
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to; when it is whole it takes the place of `path`, and if it does not become so it goes."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, lest a rename outlive what it names when a node is lost."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_given(hydra: Any, key: str) -> bool:
    """Whether the command line sets a key of Hydra's own config."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)  # they may hold interpolations
    return any(str(override).lstrip("+").startswith(f"{key}=") for override in overrides)


def quoted(text: str) -> str:
    """A value as a string in the grammar of Hydra's overrides."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
