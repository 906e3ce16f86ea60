"""Why one class leads at initialisation: how alike a network's features of different images are.

`python -m reproduction.features FILE.csv [OVERRIDE ...]` takes untrained networks of a few seeds from every initialiser
and writes, in both batch-norm modes, how they see the same test images.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from igb import experiment
from igb._paths import config_folder
from igb.probe import probe_order
from reproduction.tables import INITS, MODES

SEEDS = range(5)
IMAGES = 500


def features(overrides: list[str]) -> pd.DataFrame:
    """A row for each initialiser, seed and batch-norm mode, of `alike`."""
    rows = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for init in INITS:
            for seed in SEEDS:
                parts = experiment.build(compose("config", [*overrides, f"init={init}", f"seed={seed}"]))
                parts.data.setup()
                order = probe_order(parts.data.test_labels, min(IMAGES, len(parts.data.test_labels)))
                images = parts.data.scale(parts.data.test_images[order])
                network = parts.make_network()
                for mode in MODES:
                    rows.append({"init": init, "seed": seed, "batch_norm": mode} | alike(network, images, mode))
    return pd.DataFrame(rows)


def alike(network: nn.Module, images: Tensor, mode: str) -> dict[str, Any]:
    """How alike the images [N, ...] look to a torchvision ResNet.

    cosine: mean cosine of the last features of two images; class_spread: standard deviation over classes of the mean
    logit; image_spread: mean over classes of a logit's standard deviation over images; largest_probability: the largest
    mean softmax probability of a class.
    """
    network.train(mode == "batch")
    seen: list[Tensor] = []
    layer = network.get_submodule("fc")
    handle = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        logits = network(images).double()
    handle.remove()
    directions = F.normalize(seen[0].double(), dim=1)
    n = len(images)
    return {
        "cosine": ((directions.sum(dim=0).square().sum() - n) / (n * (n - 1))).item(),
        "class_spread": logits.mean(dim=0).std().item(),
        "image_spread": logits.std(dim=0).mean().item(),
        "largest_probability": logits.softmax(dim=1).mean(dim=0).max().item(),
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m reproduction.features FILE.csv [OVERRIDE ...]")
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    features(sys.argv[2:]).to_csv(file, index=False, float_format="%.5g")
