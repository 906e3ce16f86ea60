"""Kills runs with SIGKILL, starts them again, and compares what they leave with an undisturbed run.

A run is a fork of this process, which has imported all and computed nothing: starting costs nothing, and no thread is
lost in the fork. `python -m tests.helpers.faults FOLDER COUNT` prints a line for each run and ends
non-zero if one differs.
"""

import csv
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import sklearn.datasets  # noqa: F401  (imported before a fork, as all that a run imports later)
import torch
import torch._dynamo
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import igb
from igb import experiment, statistics
from igb.training import checkpoints
from igb.training.records import Records
from igb.training.step_losses import StepLosses
from tests.conftest import tiny_config

STEPS_PER_EPOCH = 45
# Momentum, dropout, a loss that changes and both modes: all that a run has to take up again.
OVERRIDES = (
    "trainer.max_steps=60", "optimizer.momentum=0.9", "+model.dropout=0.3", "loss=bl", "loss.warmup_epochs=1",
    "probe=log", "probe.points=25", "probe.batch_norm=both", "probe.images=60", "probe.chunk=20",
    "trainer.checkpoint_minutes=0.001",
)  # fmt: skip


def at_call(owner: object, name: str, number: int, *, before: bool) -> Callable[[], None]:
    """Sets a trap: the process is killed before or after the `number`th call of a function."""

    def set_trap() -> None:
        original, calls = getattr(owner, name), 0

        def trap(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if before and calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if not before and calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        mock.patch.object(owner, name, trap).start()

    return set_trap


def torn(number: int) -> Callable[[], None]:
    """Sets a trap: the process is killed when half of the `number`th checkpoint is on the disk."""

    def set_trap() -> None:
        original, calls = checkpoints.sync, 0

        def trap(path: Path) -> None:
            nonlocal calls
            calls += path.suffix == ".partial"
            if calls == number:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            original(path)

        mock.patch.object(checkpoints, "sync", trap).start()

    return set_trap


def moved_away(number: int) -> Callable[[], None]:
    """Sets a trap: the process is killed when the checkpoint before the `number`th is no more the last."""

    def set_trap() -> None:
        original, calls = Path.replace, 0

        def trap(path: Path, target: Path) -> Path:
            nonlocal calls
            result = original(path, target)
            calls += target.name == "previous.ckpt"
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        mock.patch.object(Path, "replace", trap).start()

    return set_trap


def moments(count: int, duration: float) -> list[tuple[str, Callable[[], None] | float]]:
    """Where or after how many seconds to kill a run of some duration: first the places easy to get wrong, then any."""
    last = STEPS_PER_EPOCH
    places = [
        ("half a checkpoint written", torn(3)),
        ("a checkpoint moved away, the next not in place", moved_away(3)),
        ("a record after the last checkpoint", at_call(Records, "record", 15, before=False)),
        ("within a probe", at_call(statistics.ClassSums, "update", 100, before=True)),
        ("the last batch of an epoch, unrecorded", at_call(StepLosses, "on_train_batch_end", last, before=True)),
        ("the last batch of an epoch, recorded", at_call(StepLosses, "on_train_batch_end", last, before=False)),
        ("the first batch of an epoch", at_call(StepLosses, "on_train_batch_end", last + 1, before=False)),
        ("the initial probe", at_call(statistics.ClassSums, "update", 2, before=True)),
        ("the first record", at_call(Records, "record", 1, before=False)),
        ("the last record", at_call(Records, "record", 27, before=False)),
    ]
    seeded = random.Random(0)
    shares = [seeded.random() for _ in range(count - len(places))]
    return places[:count] + [(f"{share:.0%} of the run", share * duration) for share in shares]


def start(folder: Path, set_trap: Callable[[], None] | None = None) -> int:
    """Fork a process that carries out the run."""
    if (process := os.fork()) == 0:
        try:
            logging.getLogger().setLevel(logging.ERROR)
            if set_trap:
                set_trap()
            experiment.run(CONFIG, folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return process


def run(folder: Path, moment: Callable[[], None] | float | None = None) -> int:
    """Carry out the run, to its end or until the moment it is killed; return the exit status, or minus the signal."""
    if not isinstance(moment, float):
        return os.waitstatus_to_exitcode(os.waitpid(start(folder, moment), 0)[1])
    process = start(folder)
    ends = time.monotonic() + moment
    while time.monotonic() < ends:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def content(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for what depends on the clock."""
    with open(folder / "train.csv") as file:
        train = [row[:-1] for row in csv.reader(file)]
    matrices = igb.load_matrices(folder)
    arrays = {name: np.asarray(value).tobytes() for name, value in vars(matrices).items()}
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = {name: value.numpy().tobytes() for name, value in state["state_dict"].items()}
    optimizer = [
        value.numpy().tobytes() for each in state["optimizer_states"][0]["state"].values() for value in each.values()
    ]
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }
    return {
        "files": sorted(file.name for file in folder.iterdir() if "tfevents" not in file.name),
        "event files": len(list(folder.glob("events.*"))),
        "checkpoints": sorted(file.name for file in (folder / "checkpoints").iterdir()),
        "metrics.csv": (folder / "metrics.csv").read_bytes(),
        "train.csv": train,
        "matrices.zarr": arrays,
        "weights": tensors,
        "optimizer": optimizer,
        "random": str(state["igb"]["random"]),
        "TensorBoard": scalars,
        "status": json.loads((folder / "run.json").read_text())["status"],
    }


def main(folder: Path, count: int) -> None:
    """Run undisturbed once, then with each moment; every fifth run is killed a second time as it goes on."""
    started = time.monotonic()
    assert run(folder / "undisturbed") == 0
    duration = time.monotonic() - started
    expected = content(folder / "undisturbed")
    different = kills = 0
    for number, (name, moment) in enumerate(moments(count, duration)):
        disturbed = folder / str(number)
        while run(disturbed, moment) != -signal.SIGKILL:  # it was quicker than the undisturbed one
            assert isinstance(moment, float), name
            moment *= 0.9
            shutil.rmtree(disturbed)
        killed = [True]
        if number % 5 == 4:
            killed.append(run(disturbed, 1.0) == -signal.SIGKILL)
        assert run(disturbed) == 0, name
        found = content(disturbed)
        wrong = [part for part in expected if found[part] != expected[part]]
        resumed = json.loads((disturbed / "run.json").read_text()).get("resumed", [])
        print(f"{name}: killed {sum(killed)} x, resumed after steps {resumed}: {wrong or 'equal'}", flush=True)
        kills += sum(killed)
        different += bool(wrong)
    print(f"{kills} kills in {count} runs; {count - different} ended equal to the undisturbed run")
    sys.exit(bool(different))


CONFIG = tiny_config(*OVERRIDES)
if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
