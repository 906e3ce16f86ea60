"""The files of a run folder and of a sweep's, and what their columns are."""

from pathlib import Path


def log_path(folder: Path) -> Path:
    """Where all that a run says is kept; conf/config.yaml has it too."""
    return folder / "igb.log"


def checkpoint_path(folder: Path) -> Path:
    """Where a run keeps its last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"
