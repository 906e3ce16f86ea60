"""The trained network of a run folder."""

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
TRUSTED = ("igb", "torchvision", "torch", "timm")  # packages whose networks run no code of the folder's choice


def load_network(folder: str | Path, trust: bool = False) -> nn.Module:
    """The network of a run at its last checkpoint, on the CPU and in evaluation mode.

    Args:
        folder: of the run.
        trust: whether to run code that the folder names beyond igb, torchvision, torch and timm, and to import modules
            from the config folder that the run had; only for folders of your own.

    Raises InputError if the folder holds no run, no checkpoint, or one that does not fit, and for a network of another
    package unless it is trusted.
    """
    folder = Path(folder)
    entries = state.read(folder)
    if entries is None or not isinstance(entries.get("config"), dict) or "class_names" not in entries:
        raise InputError(f"{folder} holds no run")
    checkpoint = checkpoint_path(folder)
    if not checkpoint.exists():
        raise InputError(f"{folder} has no checkpoints/last.ckpt; the run kept none or has not come to its first yet")
    model = OmegaConf.create(entries["config"]).model
    for key, value in flat(model).items():
        if key.rpartition(".")[2] == "_target_" and not trust:
            _refuse_untrusted(str(value), folder)
        if key.rpartition(".")[2] == "_target_":
            OmegaConf.update(model, key, current_target(str(value)))
    if trust and hydra_path(folder).exists():
        import_from(OmegaConf.load(hydra_path(folder)).hydra.runtime)
    try:
        network = instantiate(model, num_classes=len(entries["class_names"]), _convert_="all")
    except InstantiationException as error:
        raise InputError(f"the network of {folder} cannot be made ({one_line(error.__cause__ or error)})") from error
    try:
        weights = read_checkpoint(checkpoint)["state_dict"]
        network.load_state_dict(
            {name.removeprefix(NETWORK): value for name, value in weights.items() if name.startswith(NETWORK)}
        )
    except DAMAGE as error:
        raise InputError(f"{checkpoint} is damaged or of another network ({one_line(error)})") from error
    loaded: nn.Module = network.eval()
    return loaded


def _refuse_untrusted(target: str, folder: Path) -> None:
    """Raise InputError unless a target is of a trusted package, by its name and by where it is defined."""
    name = current_target(target)
    if name.partition(".")[0] in TRUSTED:
        try:
            defined: Any = get_object(name)
        except Exception as error:
            raise InputError(f"the network of {folder} cannot be made ({one_line(error)})") from error
        # `torch.os.system` is of torch by its name alone.
        if str(getattr(defined, "__module__", None) or "").partition(".")[0] in TRUSTED:
            return
    raise InputError(
        f"the network of {folder} is {target}, which is code beyond {', '.join(TRUSTED)}; "
        "if you trust it, give trust=True"
    )
