"""How far `compute=fast`, and plain bfloat16 autocast, are from `exact` in what a probe of a ResNet-50 measures.

`python -m benchmarks.precision data=image_folder data.root=FOLDER`; the data are the digits by default.
"""

import itertools
import sys

import torch
from torch import Tensor, nn

from igb import experiment, initialization, models
from igb.compute import ALL_THREADS, CALIBRATION, fold
from igb.data import ImageData
from igb.statistics import measure
from igb.training.classifier import Classifier
from igb.training.probe import probe_order
from igb.training.step import Step

SEEDS = range(8)
INITIALISERS = ("replaced_conv1", "he")
STEPS = 100  # of training, after which to measure again


class Autocast(nn.Module):
    """A network under torch's bfloat16 autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C]."""
        with torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = self.network(images)
        return logits


def differences(network: nn.Module, data: ImageData, order: Tensor) -> str:
    """The largest p̄_k, and the largest differences in p̄_k and Acc_k of fast and of autocast."""
    network.eval()
    images = data.scale(data.test_images[order[:CALIBRATION]])
    exact, fast = fold(network, torch.float32, images), fold(network, torch.bfloat16, images)
    assert exact is not None
    assert fast is not None
    stats = [
        measure(twin, data.test_images[order], data.test_labels[order], transform=data.scale)
        for twin in (exact, fast, Autocast(network))
    ]
    reference = stats[0]
    cells = [f"{float(reference.probability.max()):.3f}"]
    for other in stats[1:]:
        for name in ("probability", "accuracy"):
            cells.append(f"{float((getattr(other, name) - getattr(reference, name)).abs().max()):.4f}")
    return " | ".join(cells)


def main(overrides: list[str]) -> None:
    """Print the table."""
    data = [] if any(item.startswith("data=") for item in overrides) else ["data=digits"]
    parts, device = experiment.build(experiment.compose(*data, *overrides, "compute=fast")), torch.device("cpu")
    compute = parts.compute.on(device, parts.compute.threads or ALL_THREADS)
    compute.set_up(device)
    if compute.precision != "bfloat16":
        sys.exit("precision: there is nothing to compare where fast is exact")
    parts.data.setup()
    classes = len(parts.data.class_names)
    order = probe_order(parts.data.test_labels, parts.probe.images)
    print("| init | seed | steps | largest p̄ | fast: p̄ | Acc | autocast: p̄ | Acc |\n" + "| --- " * 8 + "|")
    for name in INITIALISERS:
        for seed in SEEDS:
            network = initialization.build(lambda: models.resnet50(classes), getattr(initialization, name), seed)
            classifier = Classifier(network, parts.loss_schedule, parts.make_optimizer, compute)
            step = Step(classifier, classifier.configure_optimizers())
            print(f"| {name} | {seed} | 0 | {differences(network, parts.data, order)} |", flush=True)
            batches = itertools.cycle(parts.data.train_dataloader())
            classifier.train()
            for images, labels, _ in itertools.islice(batches, STEPS):
                step(parts.data.scale(images), labels, parts.loss_schedule.at(0))
            print(f"| {name} | {seed} | {STEPS} | {differences(network, parts.data, order)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
