"""The trained network of a run."""

import json
import pickle
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from igb._checks import InputError, one_line
from igb._paths import checkpoint_path, import_from

NETWORK = "network."  # the prefix of its weights in the checkpoint of a Classifier


def load_network(folder: str | Path) -> nn.Module:
    """The network of a run at its last checkpoint, on the CPU and in evaluation mode.

    Raises InputError if the folder holds no run, no checkpoint, or one that does not fit.
    """
    folder = Path(folder)
    config_file, run_file = folder / ".hydra" / "config.yaml", folder / "run.json"
    checkpoint = checkpoint_path(folder)
    if not config_file.exists() or not run_file.exists():
        raise InputError(f"{folder} holds no run")
    if not checkpoint.exists():
        raise InputError(
            f"{folder} has no checkpoints/last.ckpt; the run kept none or has not come to the end of an epoch yet"
        )
    if (hydra_file := folder / ".hydra" / "hydra.yaml").exists():
        import_from(OmegaConf.load(hydra_file).hydra.runtime)
    config = OmegaConf.load(config_file)
    classes = len(json.loads(run_file.read_text())["class_names"])
    network = instantiate(config.model, num_classes=classes, _convert_="all")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        weights = {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
        network.load_state_dict(weights)
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{checkpoint} is damaged or of another network ({one_line(error)})") from error
    return network.eval()
