"""The lock of a folder: one process at a time writes there."""

import logging
from pathlib import Path

import filelock

from igb._checks import InputError

log = logging.getLogger(__name__)


class Lock:
    """The lock of a folder; it is released when the process exits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = False
        self._lock = filelock.FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Lock the folder; InputError if another process holds it."""
        try:
            self._lock.acquire(timeout=1)  # `in_use` holds it for a moment
        except filelock.Timeout as error:
            raise InputError(f"another process is writing to {self.folder}") from error
        except (OSError, NotImplementedError) as error:
            log.warning("%s cannot be locked (%s); make sure that no two processes write there", self.folder, error)
        self.held = True

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()
        self.held = False


def in_use(folder: Path) -> bool:
    """Whether a process holds the folder's lock; assumed where this user may not look."""
    if not (folder / ".lock").exists():
        return False
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, PermissionError):
        return True
    except (OSError, NotImplementedError):  # a file system without locks
        return False
    lock.release()
    return False
