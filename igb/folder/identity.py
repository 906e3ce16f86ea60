"""Run identity: which config keys must match for a run to be resumed, which may differ or grow, and which are seeds.

One table, which resuming, sweeps and the report go by.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from igb._checks import InputError
from igb.folder import state

# A key that is not here, by itself or with its group, is part of a run's identity.
SEED = "seed"  # must be the same to resume; runs that differ in it alone are one setting of a report
MAY_DIFFER, MAY_GROW = "may differ", "may grow"  # when a run is resumed
ROLES = {
    **dict.fromkeys(state.SEEDS, SEED),
    "name": MAY_DIFFER,
    "objective": MAY_DIFFER,
    "logger": MAY_DIFFER,
    "data.root": MAY_DIFFER,  # the images are what counts; run.json has their hash
    "data.cache_dir": MAY_DIFFER,
    "data.memory": MAY_DIFFER,
    "data.workers": MAY_DIFFER,
    "probe.matrices": MAY_DIFFER,
    "trainer.checkpoint_minutes": MAY_DIFFER,
    "trainer.keep_checkpoint": MAY_DIFFER,
    "trainer.max_epochs": MAY_GROW,
    "trainer.max_steps": MAY_GROW,
}
# Keys of older options that came after schema 1 and may not differ, and the value that stands for what a run did before
# there was such a key. Those that are null by default need none: null and no such key are the same.
OLD_CONFIG_DEFAULTS: dict[str, Any] = {
    "data.color": False, "data.fit": "stretch", "data.fraction": 1.0, "data.imbalance": 1.0, "init.calibrate": False,
    "init.center": False, "init.draws": 100, "init.tolerance": 0.05,
    "loss.ramp_epochs": 0, "noise_seed": "${seed}", "schedule._target_": "igb.training.rates.constant",
    "trainer.num_nodes": 1,
}  # fmt: skip
# The beginnings of former names of what a `_target_` names, and of their names today.
FORMER_TARGETS = {
    "igb.networks.": "igb.models.",
    "igb.probe.": "igb.training.",
    "igb.sources.": "igb.data.sources.",
}


def role(key: str) -> str | None:
    """The role of a dotted key, or of its group."""
    return ROLES.get(key, ROLES.get(key.partition(".")[0]))


def keys_with_role(role: str) -> tuple[str, ...]:
    """The keys and groups that have a role."""
    return tuple(key for key, its_role in ROLES.items() if its_role == role)


def identity(config: Any) -> dict[str, Any]:
    """The values of a config (a DictConfig, or that in run.json) by their dotted keys, without the keys in ROLES.

    Two runs with the same identity differ only in their seeds, in what may differ, and in how long they are.
    """
    return {key: value for key, value in _values(config).items() if role(key) is None}


def refuse_other(folder: Path, config: Any) -> None:
    """Raise InputError if the folder holds a run other than the one `config` describes, or files not written by igb.

    The first key that differs is named. Seeds are the same, limits may have grown, and some keys may differ.
    """
    entries = state.read(folder)
    if entries is None:
        state.refuse_foreign(folder)
        return
    if not isinstance(entries.get("config"), dict):
        raise InputError(f"{folder / 'run.json'} has no config; choose another folder")
    recorded, composed = _values(entries["config"]), _values(config)
    for key in sorted({*recorded, *composed}):
        old, new = recorded.get(key), composed.get(key)
        if role(key) == MAY_DIFFER and (key != "data.root" or "images" in entries):  # the hash of which is compared
            continue
        if role(key) == MAY_GROW and _limit(new) >= _limit(old):
            continue
        if old != new:
            raise InputError(
                f"{key}={new} differs from {key}={old}, with which the run in {folder} was started; "
                "use the original value or another folder"
            )


def is_on_same_data(entries: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether the run with these entries of run.json is on data with the same entries, as `ImageData.entries` has them.

    A run that had not loaded its data, or had no hash of its images in schema 1, contradicts none.
    """
    return all(entries.get(name, value) == value for name, value in data.items())


def is_known_by_images(folder: Path, config: Any) -> bool:
    """Whether a folder has a run with another `data.root` than `config`, so that its images tell if it is the same run.

    Where the root is the same no image is looked at until a run resumes.
    """
    entries = state.read(folder)
    return entries is not None and _values(entries.get("config") or {}).get("data.root") != flat(config).get(
        "data.root"
    )


def identifying_overrides(overrides: Iterable[str]) -> frozenset[str]:
    """The overrides of a command line that make a run what it is, seeds among them."""
    keys = {item: item.lstrip("+~").partition("=")[0] for item in overrides}
    return frozenset(
        item
        for item, key in keys.items()
        if not key.startswith(("hydra.", "hydra/")) and role(key) not in (MAY_DIFFER, MAY_GROW)
    )


def current_target(name: str) -> str:
    """The name that the target of a config has today."""
    for former, current in FORMER_TARGETS.items():
        if name.startswith(former):
            return current + name.removeprefix(former)
    return name


def flat(config: Any) -> dict[str, Any]:
    """The values of a config, as they are written, by their dotted keys."""
    found: dict[str, Any] = {}

    def visit(value: Any, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                visit(item, f"{key}.{name}" if key else str(name))
        else:
            found[key] = value

    visit(OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config, "")
    return found


def _values(config: Any) -> dict[str, Any]:
    """`flat` without nulls, with targets by their names of today, and with the keys that an older config lacks."""
    found = OLD_CONFIG_DEFAULTS | {
        key: current_target(value) if key.endswith("_target_") and isinstance(value, str) else value
        for key, value in flat(config).items()
    }
    return {key: value for key, value in found.items() if value is not None}


def _limit(value: Any) -> float:
    """A number of epochs or steps; infinite for None, and NaN, which compares with nothing, for an expression."""
    if value is None:
        return math.inf
    return value if isinstance(value, int) else math.nan
