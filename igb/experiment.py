"""One run, from a config to a finished run folder."""

import atexit
import contextlib
import functools
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from igb import _checks, _slurm, initialization
from igb._checks import InputError, one_line
from igb._environment import is_started_with, slurm_tasks
from igb._paths import config_folder, quoted, refuse_hidden, user_config_folders
from igb._settings import flushed_denormals, restored_settings
from igb.compute import ALL_THREADS, Compute
from igb.data import ImageData
from igb.data.noise import Human, LabelNoise
from igb.folder import identity, state
from igb.folder.provenance import provenance
from igb.folder.schema import OBJECTIVES
from igb.folder.state import RunState
from igb.losses import LossSchedule
from igb.models import MLP
from igb.schedule import Schedule
from igb.statistics import measure
from igb.training import checkpoints, loggers
from igb.training.checkpoints import Checkpoints
from igb.training.classifier import Classifier
from igb.training.eta import Eta, ProgressBar
from igb.training.load import network_arguments, without_unknown_nulls
from igb.training.loggers import RunLogger
from igb.training.memorisation import Labelled
from igb.training.optimizers import MakeOptimizer
from igb.training.probe import Probe, ProbeCallback, probe_order
from igb.training.rates import RateSchedule, constant
from igb.training.records import NO_RECORDS, Records
from igb.training.step_losses import DivergedError, StepLosses
from igb.training.stopping import Stop, StoppedError
from igb.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)


# Keys of the group `init` that are not those of its rule.
OF_IGB_IN_INIT = ("calibrate", "center", "target_dominance", "tolerance", "draws", "drift_ratio")
DRAWN_FOR = 2000  # training images that `target_dominance` and `drift_ratio` are about


class Parts(NamedTuple):
    """The parts that a config describes. Their values are checked; no image is read and no weight drawn yet."""

    data: ImageData
    make_network: Callable[..., nn.Module]  # with `seed` for another draw than that of the config
    loss_schedule: LossSchedule
    make_optimizer: MakeOptimizer
    rates: RateSchedule
    noise: LabelNoise | Human | None
    probe: Probe
    compute: Compute
    make_trainer: Callable[..., pl.Trainer]
    make_logger: Callable[..., Logger] | None
    rank: int  # of this process among those of the run, one per device
    world_size: int  # the number of these processes
    smallest_shard: int  # the fewest images of a batch that a device may get


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """The config of a run, as the command `igb` composes it from the same overrides.

    `config_dir` is a folder of your own with config groups, as with `--config-dir`. Raises Hydra's
    own error for an unknown group or key.
    """
    searched = []
    if config_dir is not None:
        folder = str(Path(config_dir).resolve())
        refuse_hidden(Path(folder))
        searched = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]"]
        if folder not in sys.path:
            sys.path.append(folder)  # as `--config-dir` does
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = hydra.compose("config", [*searched, *overrides])
    refuse_mixtures(overrides, config)
    return config


def refuse_mixtures(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise InputError where overrides give a group a list of options, which Hydra would merge into one config."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if isinstance(value, list) and OmegaConf.is_dict(config.get(group)):
            options = ",".join(map(str, value))
            raise InputError(
                f"{group}=[{options}] would merge these options into one config; to sweep over them: "
                f"--multirun {group}={options}"
            )


def run(config: DictConfig, folder: str | Path, name: str = "") -> str:
    """Carry out the run that `config` describes, leave its records in `folder`, and return its status.

    `name` is what the log calls it; the folder by default.
    A folder that holds a part of the run is resumed from its last checkpoint; a finished one is left as it is.
    Raises InputError for bad input, before anything is written where that can be known by then, and StoppedError if a
    signal stopped the run.
    """
    folder = Path(folder)
    with restored_settings(), flushed_denormals():
        parts = build(config)
        identity.refuse_other(folder, config)
        if status := state.final_status(folder, config):
            if identity.is_known_by_images(folder, config):
                refuse_other_data(folder, state.read(folder) or {}, data_entries(config))
            log.info("already %s: %s", status, name or folder)
            return status
        try:
            carry_out(parts, config, folder, name=name)
        except DivergedError:
            return "diverged"
        except StoppedError as stopped:
            if parts.rank == 0 or not stopped.between_steps:
                raise
            return "interrupted"  # the first process reports it for all
        if parts.rank == 0:
            checkpoints.prune(folder, keep=config.trainer.keep_checkpoint)
        return "completed"


def carry_out(
    parts: Parts, config: DictConfig, folder: Path, callbacks: Sequence[pl.Callback] = (), name: str = ""
) -> None:
    """Train and measure as one process of the run, the first of which alone writes.

    `parts` are those of `config`; `callbacks` come after igb's own.
    """
    data, probe, loss_schedule, stopwatch = parts.data, parts.probe, parts.loss_schedule, Stopwatch()
    with Stop() as stop, contextlib.ExitStack() as stack:
        run_state = None
        if parts.rank == 0:
            run_state = stack.enter_context(RunState(folder, config, name, **provenance(user_config_folders())))
        previous = run_state.previous if run_state else state.read(folder) or {}

        with _checks.within("data"):
            data.setup()
            data.shard(parts.rank, parts.world_size, parts.smallest_shard)
        labelled = None
        if parts.noise is not None:
            with _checks.within("noise"):
                data.relabel(parts.noise.labels(data, config.noise_seed))
                labelled = Labelled.of(data, _subset(data, config.noise.get("images", 1000)))
        with _checks.within("probe"):
            order = probe.order(data.test_labels)
        test_images = data.test_images[order]
        data.release()
        entries = data.entries()
        refuse_other_data(folder, previous, entries)
        if previous.get("class_names") and "images" not in previous:
            log.info("this run was started before igb kept a hash of its images; make sure that they are the same")
        limits = config.trainer
        schedule = Schedule.of(data.steps_per_epoch, limits.max_epochs, limits.max_steps, probe.points)

        last = checkpoints.latest(folder)
        first_step = last.step if last else 0
        records = None
        if run_state:
            kept = last.records if last else NO_RECORDS
            make_logger = parts.make_logger and functools.partial(
                RunLogger, parts.make_logger, config, run_state, name, data.classes
            )
            records = Records(  # which looks for what was recorded before run.json says that the run has begun
                run_state, config, data.classes, loss_schedule, probe, schedule, stopwatch,
                labelled is not None, make_logger, kept,
            )  # fmt: skip
            run_state.resume(last.step, last.records["seconds"]) if last else run_state.start_anew()
            run_state.update(**entries, steps_per_epoch=schedule.steps_per_epoch, total_steps=schedule.total_steps)
            if parts.noise is not None:
                run_state.update(wrong_labels=data.wrong_labels)
            stack.enter_context(records)

        step_losses = StepLosses(schedule, stopwatch, records.record_steps if records else _drop)
        checkpointing = Checkpoints(
            folder, schedule, stopwatch, step_losses, records, stop, config.trainer.checkpoint_minutes, last
        )
        probing = ProbeCallback(
            probe, test_images, data.test_labels[order], data.scale, len(data.classes), schedule,
            stopwatch, records.record if records else _drop, stop.check, first_step, labelled,
            records.record_memorisation if records else _drop,
        )  # fmt: skip
        # In this order: a checkpoint holds the step and its loss, but not yet the probe after it.
        ours: list[pl.Callback] = [step_losses, checkpointing, probing]
        if records:
            eta = Eta(schedule, stopwatch, probing, every_batch=probe.points is None)
            bar = [ProgressBar(eta, step_losses)] if sys.stdout.isatty() else []
            ours = [records, *ours, eta, *bar]
            _say_plan(schedule, len(order) * len(probe.views), first_step)
            if wrong := state.repeated_epoch(folder, previous, first_step):
                log.warning("%s", wrong)

        trainer = parts.make_trainer(callbacks=[*ours, *callbacks])
        if trainer.strategy.launcher is not None:  # Lightning leaves the others running when this one fails
            atexit.register(trainer.strategy.launcher.kill, signal.SIGKILL)
        root = trainer.strategy.root_device
        threads = previous.get("threads") if last else None  # the last bits depend on their number
        compute = parts.compute.on(root, threads or _threads(parts, limits.devices))
        pl.seed_everything(process_seed(config.seed, parts.rank), verbose=False)
        clip = limits.get("gradient_clip")
        network = parts.make_network() if last else _drawn(parts, config, data, run_state, root, stop.check)
        classifier = Classifier(network, loss_schedule, parts.make_optimizer, compute, parts.rates, clip)
        if last is None:
            _remedy(config.init, classifier, data, probe, root)
        with stop.deferred():
            trainer.fit(classifier, datamodule=data, ckpt_path=last and last.path, weights_only=True)


def _drawn(
    parts: Parts,
    config: DictConfig,
    data: ImageData,
    run_state: RunState | None,
    device: torch.device,
    check_stop: Callable[[], None],
) -> nn.Module:
    """The network that a run begins with; run.json tells how it was found, and what the theory needs to know of it."""
    options, mode = config.init, parts.probe.views[0].batch_norm
    found: dict[str, dict[str, float]] = {}

    @functools.cache
    def images() -> torch.Tensor:
        chosen = data.train_images[_subset(data, DRAWN_FOR)]
        data.release()
        return chosen

    def dominance(network: nn.Module) -> float:
        check_stop()
        labels, chunk = torch.zeros(len(images()), dtype=torch.int64), max(2, parts.probe.chunk)
        network.to(device)
        return measure(network, images(), labels, batch_norm=mode, chunk=chunk, transform=data.scale).dominance

    with _checks.within("init"):
        if (target := options.get("target_dominance")) is not None:
            limits = options.get("tolerance", 0.05), options.get("draws", 100)
            network, found["init"] = initialization.of_dominance(
                parts.make_network, config.init_seed, dominance, target, *limits
            )
            log.info("draw %(draws)s has dominance %(dominance).3g", found["init"])
        else:
            network = parts.make_network()
        moments = initialization.input_moments(data.scale(images())) if isinstance(network, MLP) else (1.0, 0.0)
        if isinstance(network, MLP):
            found["inputs"] = dict(zip(("variance", "correlation"), moments, strict=True))
        if (ratio := options.get("drift_ratio")) is not None:
            by = "batch" if options.get("calibrate") else mode  # running statistics then are those of the data
            variance = initialization.set_drift_ratio(network, ratio, options.bias_variance, *moments, by)
            found["init"] = {"weight_variance": variance}
    if found and run_state:
        run_state.update(**found)
    return network


def _remedy(options: DictConfig, classifier: Classifier, data: ImageData, probe: Probe, device: torch.device) -> None:
    """Calibrate and centre a network that begins, where `init` says so, with chunks as a probe has them."""

    def chunks() -> Iterator[torch.Tensor]:
        return data.shuffled(max(2, probe.chunk), device)

    if not options.get("calibrate") and not options.get("center"):
        return
    classifier.to(device)
    classifier.compute.set_up(device)
    if options.get("calibrate"):
        initialization.calibrate(classifier, chunks())
    if options.get("center"):
        with _checks.within("init"):
            initialization.center(classifier, chunks, len(data.classes), probe.views[0].batch_norm)


def data_entries(config: DictConfig) -> dict[str, Any]:
    """The entries of run.json that tell a config's data from others; it loads them."""
    data = build(config, on_this_machine=False).data
    with _checks.within("data"):
        data.setup()
    return data.entries()


def refuse_other_data(folder: Path, previous: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise InputError unless the entries of a run's data are those with which the run in a folder was started."""
    if not identity.is_on_same_data(previous, data):
        what = "images" if not identity.is_on_same_data(previous, {"images": data["images"]}) else "class names"
        raise InputError(f"data: the {what} differ from those the run in {folder} was started with")


def _say_plan(schedule: Schedule, images_per_probe: int, first_step: int) -> None:
    counts = (len(schedule.probe_steps), images_per_probe, schedule.total_steps)
    log.info("plan: %s probes of %s images, %s steps", *(f"{count:,}" for count in counts))
    if first_step:
        log.info("going on after step %s", f"{first_step:,}")


def process_seed(seed: int, rank: int) -> int:
    """The seed of one process: that of the run for rank 0, and one independent of every other for any other rank."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint32)[0])


def _threads(parts: Parts, devices: int) -> int:
    """The threads of a process: as in the config, or the cores of the run divided by the devices of this machine."""
    if parts.compute.threads is not None:
        return parts.compute.threads
    share = 1 if slurm_tasks() == parts.world_size else devices  # each task of SLURM has its own cores
    return max(1, min(ALL_THREADS, _slurm.cores() or ALL_THREADS) // share)


def _subset(data: ImageData, count: int) -> torch.Tensor:
    """The indices of `count` training images, of every class in proportion, in an order that is the same for all seeds.

    All that are served, if they are fewer.
    """
    labels = getattr(data, "true_labels", data.train_labels)[data.kept]
    return data.kept[probe_order(labels, min(count, len(labels)))]


def _drop(*records: object) -> None:
    """Record nothing, as every process but the first."""


def build(config: DictConfig, on_this_machine: bool = True) -> Parts:
    """Check every value of a config and make its parts; InputError names the first value that is wrong.

    A run `on_this_machine` needs its devices; a job for a cluster is checked without them.
    """
    for key in identity.keys_with_role(identity.SEED):
        _checks.seed(key, config.get(key, 0))
    if config.get("objective") is not None:
        _checks.choice("objective", config.objective, OBJECTIVES)
    data = _make(config, "data")
    with _checks.within("data"):
        classes = len(data.classes)
    has_noise = OmegaConf.select(config, "noise._target_") is not None
    noise = _make(config, "noise", without=("images",)) if has_noise else None
    if noise is not None:
        with _checks.within("noise"):  # one image of each class at least
            _checks.integer("images", config.noise.get("images", 1000), at_least=classes)
        noise.check(data)
    with torch.random.fork_rng(devices=[]):  # a loss may have parameters
        torch.default_generator.manual_seed(config.init_seed)
        loss = _make(config, "loss", without=("warmup_epochs", "ramp_epochs"))
    with _checks.within("loss"):
        loss_schedule = LossSchedule(loss, config.loss.get("warmup_epochs", 0), config.loss.get("ramp_epochs", 0))
    with _checks.within("trainer"):
        _checks.boolean("keep_checkpoint", config.trainer.keep_checkpoint)
        _checks.number("checkpoint_minutes", config.trainer.checkpoint_minutes, at_least=0)
        if config.trainer.get("gradient_clip") is not None:
            _checks.number("gradient_clip", config.trainer.gradient_clip, at_least=1e-12)
    ours = ("keep_checkpoint", "checkpoint_minutes", "gradient_clip")
    make_trainer = functools.partial(_make, config, "trainer", without=ours)
    trainer = make_trainer(**{} if on_this_machine else {"accelerator": "cpu"})
    if on_this_machine and trainer.num_nodes > 1 and not is_started_with(trainer.world_size):
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes} needs hydra/launcher=slurm, or torchrun on each node; see "
            "docs/clusters.md"
        )
    arguments = network_arguments(classes, data.channels)
    config = config.copy()
    with open_dict(config):
        config.model = without_unknown_nulls(config.model)
    has_batch_norm = _has_batch_norm(OmegaConf.to_yaml(config.model, resolve=True), **arguments)
    smallest_shard = 2 if has_batch_norm else 1
    if data.batch_size < (needed := smallest_shard * trainer.world_size):
        what = "a network with batch norm" if smallest_shard > 1 else "a network"
        where = f" on each of {trainer.world_size} devices" if trainer.world_size > 1 else ""
        raise InputError(f"data.batch_size={data.batch_size} must be at least {needed} for {what}{where}")
    make_network = functools.partial(_make, config, "model", **arguments)
    probe = _make(config, "probe")
    if not has_batch_norm:
        probe.measure_once()
    make_logger = None
    if OmegaConf.select(config, "logger._target_") is not None:
        with _checks.within("logger"):
            _checks.boolean("classes", config.logger.get("classes", True))
        make_logger = functools.partial(_make, config, "logger", without=loggers.OF_IGB)
        make_logger(**loggers.arguments(config.logger, folder="."))  # which starts no run yet
    with _checks.within("init"):
        _check_init(config.init, has_batch_norm)
    if config.init.get("drift_ratio") is not None:  # by which weights of variance 1 are scaled
        with open_dict(config):
            config.init.weight_variance, config.init.relative_to_edge = 1.0, False
    initializer = _make(config, "init", without=OF_IGB_IN_INIT)
    initialize = functools.partial(initialization.build, make_network, initializer, seed=config.init_seed)
    return Parts(
        data,
        initialize,
        loss_schedule,
        _make(config, "optimizer"),
        _make(config, "schedule") if config.get("schedule") else constant(),
        noise,
        probe,
        _make(config, "compute"),
        make_trainer,
        make_logger,
        trainer.global_rank,
        trainer.world_size,
        smallest_shard,
    )


def _check_init(options: DictConfig, has_batch_norm: bool) -> None:
    """Raise InputError for a value of the group `init` that is not of its rule, and is wrong."""
    for key in ("calibrate", "center"):
        _checks.boolean(key, options.get(key, False))
    if options.get("calibrate") and not has_batch_norm:
        raise InputError("calibrate=true needs a network with batch norm")
    if options.get("target_dominance") is not None:
        _checks.number("target_dominance", options.target_dominance, at_least=0, at_most=1)
        _checks.number("tolerance", options.get("tolerance", 0.05), at_least=0)
        _checks.integer("draws", options.get("draws", 100), at_least=1)
    if options.get("drift_ratio") is not None:
        _checks.number("drift_ratio", options.drift_ratio, at_least=0)
        if options.get("_target_") != "igb.initialization.mean_field":
            raise InputError("drift_ratio needs init=mean_field")
        if options.get("target_dominance") is not None:
            raise InputError("drift_ratio and target_dominance cannot both be set")


def _make(config: DictConfig, group: str, *, without: Sequence[str] = (), **arguments: Any) -> Any:
    """Instantiate a config group, less the keys that are not its constructor's; errors name the group."""
    try:
        if OmegaConf.select(config, f"{group}._target_") is None:
            raise InputError(
                f"{group}._target_ is missing; it names the class or function to instantiate (see conf/{group}/)"
            )
        options = config[group].copy()  # which keeps its place in the config, for interpolations
        with open_dict(options):
            for key in without:
                options.pop(key, None)
        return instantiate(options, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            place = re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)  # of a part within the group
            raise InputError(f"{place[1] if place else group}.{cause}") from error
        raise InputError(f"{group}: {type(cause).__name__}: {one_line(cause)}") from error
    except OmegaConfBaseException as error:  # a required value that a user's config leaves out
        raise InputError(f"{group}: {one_line(error)}") from error


@functools.cache
def _has_batch_norm(model: str, **arguments: Any) -> bool:
    """Whether the network of a model config (YAML) has batch norm; kept, as the jobs of a sweep mostly share it."""
    with flushed_denormals():
        network = _make(OmegaConf.create({"model": OmegaConf.create(model)}), "model", **arguments)
    return any(isinstance(module, _BatchNorm) for module in network.modules())
