"""How far a first step moves the logits of all images alike, of untrained networks (`igb.common_step`).

`python -m study.features docs/study/features.csv [OVERRIDE ...]` measures the networks of hypothesis 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import igb
from igb import _checks, experiment
from igb._files import make_folder, replacing
from igb.training.probe import probe_order
from reproduction.common import one_line_exit

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
    """A row for each network and seed: its `common_step` at a learning rate of 1."""
    rows = []
    for network, own in NETWORKS.items():
        for seed in seeds:
            parts = experiment.build(experiment.compose(*overrides, *own, f"seed={seed}"))
            parts.data.setup()
            order = probe_order(parts.data.test_labels, IMAGES)
            common = igb.common_step(parts.make_network(), parts.data.test_images[order], 1, transform=parts.data.scale)
            rows.append({"network": network, "seed": seed, "common": common})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m study.features", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", help="that say where the images are")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    given = parser.parse_intermixed_args()
    with one_line_exit():
        seeds = range(_checks.integer("--seeds", given.seeds, at_least=1))
        make_folder(given.file.parent, exclusively=False)  # before what takes minutes
        table = features(given.overrides, seeds)
        with replacing(given.file) as file:
            table.to_csv(file, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
