"""Where the numbers of a run come from, besides its config: code, packages, machine."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGES = ("igb", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


def provenance(config_folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The entries of run.json on code and machine.

    `versions` of Python and packages; `code`, the commit of igb where it runs from a clone, and of each of the user's
    config folders that is in git, with `clean` if nothing differs from it; `host`; `hardware`.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    clone = ("igb", "conf", "hydra_plugins")  # of it, what a run depends on
    code = {"igb": commit(Path(__file__).parents[2], *clone)} | {str(one): commit(one) for one in config_folders}
    return {
        "versions": versions,
        "code": {name: found for name, found in code.items() if found},
        "host": platform.node(),
        "hardware": {"machine": platform.machine(), "cpu_model": cpu_model(), "cores": os.cpu_count()},
    }


def commit(folder: Path, *parts: str) -> dict[str, Any] | None:
    """The commit of a folder that git tracks, and whether it (or these parts of it) is as in it; else None."""
    parts = parts or (".",)
    try:
        if not _git(folder, "ls-files", *parts):  # as of an igb that is installed in an environment within a repository
            return None
        clean = not _git(folder, "status", "--porcelain", "--", *parts)
        return {"commit": _git(folder, "rev-parse", "HEAD"), "clean": clean}
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_model() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git(folder: Path, *arguments: str) -> str:
    # --no-optional-locks: status would else write the index of a repository that is the user's
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20)
    return answer.stdout.strip()
