"""Why one class leads at initialisation, and which class each loss then pushes.

`python -m reproduction.features FILE.csv [OVERRIDE ...]` takes untrained networks of a few seeds from every initialiser
and writes, in both batch-norm modes, how they see the same test images.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igb import experiment
from igb._checks import InputError
from igb.losses import BlurryLoss, PiecewiseZeroLoss
from igb.training.probe import probe_order
from reproduction.tables import INITS, MODES

SEEDS = range(10)
IMAGES = 500
LOSSES = {"bl": BlurryLoss(), "pz": PiecewiseZeroLoss()}


def features(overrides: list[str]) -> pd.DataFrame:
    """A row for each initialiser, seed and batch-norm mode, of `alike`."""
    rows = []
    for init in INITS:
        for seed in SEEDS:
            parts = experiment.build(experiment.compose(*overrides, f"init={init}", f"seed={seed}"))
            parts.data.setup()
            order = probe_order(parts.data.test_labels, min(IMAGES, len(parts.data.test_labels)))
            images, labels = parts.data.scale(parts.data.test_images[order]), parts.data.test_labels[order]
            network = parts.make_network()
            for mode in MODES:
                rows.append({"init": init, "seed": seed, "batch_norm": mode} | alike(network, images, labels, mode))
    return pd.DataFrame(rows)


def alike(network: nn.Module, images: Tensor, labels: Tensor, mode: str) -> dict[str, Any]:
    """How alike images [N, ...] of classes `labels` [N] look to a torchvision ResNet, and where losses would push it.

    cosine: mean cosine of the last features of two images; class_spread: standard deviation over classes of the mean
    logit; image_spread: mean over classes of a logit's standard deviation over images; favoured: the class most
    guessed; <loss>_active: share of images with a gradient; <loss>_pushed: the class whose logit the mean gradient
    pushes up most; bl_wrong_way: share of the active images whose own class's logit Blurry loss pushes down.
    """
    network = copy.deepcopy(network).train(mode == "batch")  # whose running statistics then change
    seen: list[Tensor] = []
    handle = network.get_submodule("fc").register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        logits = network(images).double()
    handle.remove()
    directions = F.normalize(seen[0].double(), dim=1)
    n = len(images)
    found = {
        "cosine": ((directions.sum(dim=0).square().sum() - n) / (n * (n - 1))).item(),
        "class_spread": logits.mean(dim=0).std().item(),
        "image_spread": logits.std(dim=0).mean().item(),
        "favoured": logits.argmax(dim=1).bincount(minlength=logits.shape[1]).argmax().item(),
    }
    for name, loss in LOSSES.items():
        free = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(free, labels, reduction="none").sum(), free)
        active = gradient.norm(dim=1) > 0
        found |= {
            f"{name}_active": active.double().mean().item(),
            f"{name}_pushed": (-gradient.mean(dim=0)).argmax().item(),
        }
        if name == "bl":
            own = gradient.gather(1, labels[:, None])[active, 0]
            found["bl_wrong_way"] = (own > 0).double().mean().item()
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m reproduction.features FILE.csv [OVERRIDE ...]")
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        features(sys.argv[2:]).to_csv(file, index=False, float_format="%.5g")
    except InputError as error:
        sys.exit(f"igb: {error}")
