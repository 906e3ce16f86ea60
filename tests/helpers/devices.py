"""Runs on several devices, each a fork of this process, which has imported all and computed nothing.

`python -m tests.helpers.devices FOLDER` leaves there what tests/test_devices.py compares.
"""

import dataclasses
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import sklearn.datasets  # noqa: F401  (imported before a fork, as all that a run imports later)
import torch
import torch._dynamo
import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn

from igb import experiment
from igb.statistics import BATCH_NORM_MODES, measure
from tests.conftest import tiny_config
from tests.helpers.networks import Tiny
from tests.helpers.slurm_cluster import free_port

# Shares of 24 and 23 images, in the last batch of an epoch of 14 and 13; five chunks, so that the last round lacks one.
OVERRIDES = (
    "data.batch_size=47", "trainer.max_steps=34", "optimizer.lr=0.01", "optimizer.momentum=0.9", "loss=ce",
    "probe=log", "probe.points=12", "probe.batch_norm=both", "probe.chunk=80",
)  # fmt: skip

# What several devices might do apart.
NOISY = (
    "noise=symmetric", "noise.images=100", "data.imbalance=3", "schedule=warmup",
    "trainer.gradient_clip=0.1", "loss=gce", "loss.ramp_epochs=1",
)  # fmt: skip


def start(task: Callable[[], object], processes: int, nodes: int = 1) -> list[int]:
    """Fork processes that carry out a task together, and believe that they are on so many nodes."""
    port, started = str(free_port()), []
    for rank in range(processes):
        if (process := os.fork()) == 0:
            try:
                logging.getLogger().setLevel(logging.ERROR)
                node, local = divmod(rank, processes // nodes)
                os.environ |= {"LOCAL_RANK": str(local), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
                os.environ |= {"GROUP_RANK": str(node)}
                os.environ |= {"WORLD_SIZE": str(processes), "MASTER_PORT": port}
                task()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        started.append(process)
    return started


def wait(processes: list[int]) -> list[int]:
    """Their exit statuses."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def run(folder: Path, devices: int, *overrides: str, nodes: int = 1) -> None:
    """Carry out a run."""
    config = tiny_config(*OVERRIDES, f"trainer.devices={devices}", f"trainer.num_nodes={nodes}", *overrides)
    processes = devices * nodes
    assert wait(start(lambda: experiment.run(config, folder), processes, nodes)) == [0] * processes


def stop(folder: Path, config: DictConfig) -> None:
    """Begin a run on two devices, and tell the second process to stop, within a probe or a step."""
    processes = start(lambda: experiment.run(config, folder), 2)
    while not (folder / "train.csv").exists() or (folder / "train.csv").read_text().count("\n") < 10:
        time.sleep(0.01)
    os.kill(processes[1], signal.SIGTERM)
    assert wait(processes) == [1, 0]  # the first speaks for all


def measure_together(folder: Path) -> None:
    """Measure with synchronised batch norm, in one of several processes, by itself and with the others."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(Tiny(10))
    images, labels = torch.randn(50, 1, 32, 32), torch.arange(50) % 10
    for mode in BATCH_NORM_MODES:
        for chunk in (10, 30):  # five for three processes, and two
            for distributed in (False, True):
                stats = measure(network, images, labels, batch_norm=mode, chunk=chunk, distributed=distributed)
                torch.save(dataclasses.asdict(stats), folder / f"{mode}-{chunk}-{distributed}-{dist.get_rank()}.pt")


def main(folder: Path) -> None:
    """Leave all runs in the folder."""
    run(folder / "apart", 1, "model._target_=tests.helpers.networks.Apart")
    run(folder / "two", 2)
    for steps in (20, 34):  # the second resumes the first
        run(folder / "nodes", 1, f"trainer.max_steps={steps}", nodes=2)
    run(folder / "linear-2x2", 2, "model._target_=tests.helpers.networks.Linear", nodes=2)
    for devices in (1, 3):
        run(folder / f"linear-{devices}", devices, "model._target_=tests.helpers.networks.Linear")
        learned = ("loss._target_=tests.training.test_step.Learned", "loss.warmup_epochs=1")
        run(folder / f"noisy-{devices}", devices, "model._target_=tests.helpers.networks.Linear", *NOISY)
        run(folder / f"learned-{devices}", devices, "model._target_=tests.helpers.networks.Linear", *learned)
    dropout = ("+model.dropout=0.3", "trainer.checkpoint_minutes=0.001")
    run(folder / "undisturbed", 2, *dropout)
    config = tiny_config(*OVERRIDES, "trainer.devices=2", *dropout)
    stop(folder / "stopped", config)
    run(folder / "stopped", 2, *dropout)
    assert wait(start(lambda: measure_together(folder), 3)) == [0, 0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
