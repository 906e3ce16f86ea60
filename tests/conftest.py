import copy
import functools
import gc
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from igb import cli, experiment
from igb.compute.mode import has_bfloat16
from igb.report import figures

# The same examples every time, and no deadline on machines that are busy.
hypothesis.settings.register_profile("igb", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("igb")
torch.set_num_threads(1)  # as in TINY; for networks this small, a second thread only costs
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16")
VALUE = re.compile(r"(seed|init_seed|data_seed|name|[a-z]\w*\.[\w.]+)=")  # of a key that there is, not of a group
TINY = ["data=digits", "model._target_=tests.helpers.networks.Tiny", "trainer.accelerator=cpu", "compute.threads=1"]


def pytest_collection_finish() -> None:
    """Take all that is imported by now out of what the garbage collector goes through, as the command does."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.device_count() == 0:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA card"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@functools.cache
def composed(groups: tuple[str, ...]) -> DictConfig:
    return experiment.compose(*groups)


@functools.cache
def parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def tiny_config(*overrides: str) -> DictConfig:
    """A run of the tiny network on the digits, in all else as the defaults.

    As `experiment.compose` gives it, which takes a third of a second: it composes groups once, and values are set here.
    """
    given = [*TINY, *overrides]
    values = [item for item in given if VALUE.match(item)]
    config = copy.deepcopy(composed(tuple(item for item in given if item not in values)))
    for item in values:
        OmegaConf.update(config, item.partition("=")[0], parsed(item))
    return config


def tiny_run(folder: Path, *overrides: str) -> Path:
    experiment.run(tiny_config(*overrides), folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep folder with one run a loss, of two epochs with warm-up, probed in both modes; only to be read."""
    folder = tmp_path_factory.mktemp("sweep")
    for loss in ("ce", "bl", "pz"):
        (folder / loss / ".hydra").mkdir(parents=True)
        (folder / loss / ".hydra" / "overrides.yaml").write_text(f"- loss={loss}\n- data=digits\n")
        tiny_run(
            folder / loss, f"loss={loss}", "trainer.max_epochs=2", "probe=log", "probe.points=12",
            "probe.batch_norm=both", "loss.warmup_epochs=1",
        )  # fmt: skip
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without the seconds that its figures take, for tests of what else is in it."""

    def save(figure: object, path: Path) -> None:
        Image.new("RGB", (1, 1)).save(path.with_suffix(".png"))
        path.with_suffix(".pdf").write_bytes(b"%PDF")

    monkeypatch.setattr(figures, "save", save)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Six training and four test images of two classes, of odd sizes, in colour and gray."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("ant", "bee"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shape = (20 + index, 31, 3) if index else (24, 24)
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `igb` in this process, in an empty folder; gives exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, program="igb"):
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        GlobalHydra.instance().clear()
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        status = 0
        try:
            with warnings.catch_warnings():
                {"igb": cli.main, "igb-report": cli.report, "igb-theory": cli.theory}[program]()
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)  # as the interpreter does
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            root.setLevel(level)
            for handler in set(root.handlers) - set(handlers):
                root.removeHandler(handler)
                handler.close()
        return status, "".join(capsys.readouterr())

    return run


def touch_later(file: Path) -> None:
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
