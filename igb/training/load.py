"""The trained network of a run folder."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import nn

from igb._checks import InputError, one_line
from igb._paths import import_from
from igb.folder import state
from igb.folder.identity import current_target, flat
from igb.folder.schema import checkpoint_path, hydra_path
from igb.training.checkpoints import DAMAGE, read_checkpoint

NETWORK = "network."  # the prefix of its weights in the checkpoint of a Classifier
# Packages whose networks are made without `trust`: layers of any of them, and what builds a network in these modules.
PACKAGES = ("igb", "torchvision", "torch", "timm")
BUILDERS = ("igb.models", "torchvision.models", "timm.models._factory")


def load_network(folder: str | Path, trust: bool = False) -> nn.Module:
    """The network of a run at its last checkpoint, on the CPU and in evaluation mode.

    Args:
        folder: the run's folder.
        trust: whether to run other code that the folder names than networks of igb, torchvision, torch and timm, and to
            import modules from the config folder of the run; only for folders of your own.

    Raises InputError if the folder is not a run folder, has no checkpoint, or one that does not fit, and for a network
    of another package unless it is trusted.
    """
    folder = Path(folder)
    entries = state.read(folder)
    if entries is None or not isinstance(entries.get("config"), dict) or "class_names" not in entries:
        raise InputError(f"{folder} is not a run folder, or its run has not loaded its data yet")
    checkpoint = checkpoint_path(folder)
    if not checkpoint.exists():
        raise InputError(f"{folder} has no checkpoints/last.ckpt; the run did not keep one or has not written one yet")
    model = _resolved(_with_current_targets(entries["config"].get("model")), flat(entries["config"]))
    if not trust:
        for text in _texts(model):
            _refuse_untrusted(text, folder)
    if trust and hydra_path(folder).exists():
        import_from(OmegaConf.load(hydra_path(folder)).hydra.runtime)
    try:
        channels = 3 if (entries["config"].get("data") or {}).get("color") else 1
        arguments = network_arguments(len(entries["class_names"]), channels)
        network = instantiate(without_unknown_nulls(model), **arguments, _convert_="all")
    except InstantiationException as error:
        raise InputError(f"the network of {folder} cannot be built ({one_line(error.__cause__ or error)})") from error
    try:
        weights = read_checkpoint(checkpoint)["state_dict"]
        network.load_state_dict(
            {name.removeprefix(NETWORK): value for name, value in weights.items() if name.startswith(NETWORK)}
        )
    except DAMAGE as error:
        raise InputError(f"{checkpoint} is damaged or belongs to a different network ({one_line(error)})") from error
    loaded: nn.Module = network.eval()
    return loaded


def network_arguments(num_classes: int, channels: int) -> dict[str, Any]:
    """What the data say to the constructor of a network; one for gray images need not know of channels."""
    return {"num_classes": num_classes} | ({"in_channels": channels} if channels != 1 else {})


def without_unknown_nulls(model: Any) -> Any:
    """The config of a model without the keys that are null and that its constructor does not take.

    Those are left of another option, as of `model=resnet50` where `model._target_` alone names another network.
    """
    try:
        parameters = inspect.signature(get_object(model["_target_"])).parameters
    except Exception:  # which tells more where the network is made
        return model
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return model
    unknown = [key for key in model if key not in parameters and not str(key).startswith("_") and model[key] is None]
    return {key: model[key] for key in model if key not in unknown} if unknown else model


def _with_current_targets(value: Any) -> Any:
    """The config of a model with every target by its name of today."""
    if isinstance(value, dict):
        return {
            key: current_target(item) if key == "_target_" and isinstance(item, str) else _with_current_targets(item)
            for key, item in value.items()
        }
    return [_with_current_targets(item) for item in value] if isinstance(value, list) else value


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """The config of a model with every `${key}` of another plain value in its place; nothing else is resolved."""
    if isinstance(value, dict):
        return {key: _resolved(item, values) for key, item in value.items()}
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        other = values.get(found[1], value)
        return other if isinstance(other, int | float) else value
    return [_resolved(item, values) for item in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    """Every target in the config of a model, however deep, and every text that would be resolved to something else."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and "${" in value:
        yield value


def _refuse_untrusted(text: str, folder: Path) -> None:
    """Raise InputError unless a target is a layer, or builds a network, of a package that is trusted."""
    if text.partition(".")[0] in PACKAGES:
        try:
            defined: Any = get_object(text)
        except Exception as error:
            raise InputError(f"the network of {folder} cannot be built ({one_line(error)})") from error
        home = str(getattr(defined, "__module__", None))  # by its name alone `torch.os.system` is of torch
        is_layer = isinstance(defined, type) and issubclass(defined, nn.Module) and home.partition(".")[0] in PACKAGES
        if is_layer or any(f"{home}.".startswith(f"{module}.") for module in BUILDERS):
            return
    raise InputError(
        f"the network of {folder} is {text}, which is not a network from {', '.join(PACKAGES[:-1])} or {PACKAGES[-1]}; "
        "pass trust=True if you trust it"
    )
