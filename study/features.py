"""What the heads of untrained networks see: how long their features are, and how much of it all images share.

`python -m study.features docs/study/features.csv [OVERRIDE ...]` measures the networks of hypothesis 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from igb import experiment
from igb._checks import InputError
from igb.training.probe import probe_order

NETWORKS: dict[str, tuple[str, ...]] = {
    "mlp": ("model=mlp",),
    "cnn": ("model=cnn",),
    "resnet18": ("model=resnet18",),
    "none": ("model=resnet18", "model.norm=none"),
    "group": ("model=resnet18", "model.norm=group"),
    "resnet50": ("model=resnet50",),
    "convnext": ("model=convnext",),
    "vit": ("model=vit", "model.patch_size=8"),
}
IMAGES = 200


def features(overrides: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """A row for each network and seed, of `seen_by_head`."""
    rows = []
    for network, own in NETWORKS.items():
        for seed in seeds:
            parts = experiment.build(experiment.compose(*overrides, *own, f"seed={seed}"))
            parts.data.setup()
            order = probe_order(parts.data.test_labels, IMAGES)
            images = parts.data.scale(parts.data.test_images[order])
            rows.append({"network": network, "seed": seed} | seen_by_head(parts.make_network(), images))
    return pd.DataFrame(rows)


def seen_by_head(network: nn.Module, images: Tensor) -> dict[str, Any]:
    """Squared norms of what a network's last linear layer gets of images [N, ...], by batch statistics: features h.

    common: |mean h|^2, over images; own: the mean of |h - mean h|^2. One step of SGD at rate lr on an image x moves the
    logits of an image x' by -lr (h(x) . h(x')) dloss/dlogits by the head alone, that is by lr `common` where x and x'
    have nothing else in common.
    """
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        network.train()(images)
    handle.remove()
    h = seen[0].double()
    center = h.mean(dim=0)
    return {"common": center.square().sum().item(), "own": (h - center).square().sum(dim=1).mean().item()}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m study.features", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", help="that say where the images are")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    given = parser.parse_intermixed_args()
    try:
        features(given.overrides, range(given.seeds)).to_csv(given.file, index=False, float_format="%.5g")
    except OSError as error:
        sys.exit(f"igb: {error.filename} cannot be written ({error.strerror})")
    except InputError as error:
        sys.exit(f"igb: {error}")


if __name__ == "__main__":
    main()
