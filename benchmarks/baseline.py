"""The script that a good researcher writes: Lightning, PIL transforms, workers, torchmetrics, validation each batch."""

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets keep them: an array in memory, of which each item is made a picture."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: T.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].squeeze())), int(self.labels[index])


class ClassProbability(torchmetrics.Metric):
    """Mean probability of each class over its own images."""

    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        own = logits.softmax(1).gather(1, labels[:, None]).squeeze(1).double()
        self.total.index_add_(0, labels, own)
        self.count.index_add_(0, labels, torch.ones_like(own))

    def compute(self) -> Tensor:
        """Means [C]."""
        return self.total / self.count


class Baseline(pl.LightningModule):
    """The network, trained with cross-entropy, and its validation."""

    def __init__(self, network: nn.Module, num_classes: int, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.probability = ClassProbability(num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average=None)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Add a batch to the metrics."""
        images, labels = batch
        logits = self.network(images)
        self.probability.update(logits, labels)
        self.accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log probability and accuracy of each class."""
        for name, values in (("probability", self.probability.compute()), ("accuracy", self.accuracy.compute())):
            self.log_dict({f"{name}/{k}": value for k, value in enumerate(values)})
        self.probability.reset()
        self.accuracy.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def finish() -> None:
    """Wait for the card, if this process uses one: what is launched there has not happened yet."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def loaders(data: Any, workers: int, batch_size: int, pinned: bool = False) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the images of an igb data module, for training and for validation in batches of `batch_size`."""
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, data.channels, 1, 1)
    black, white = data.scale(ends).double().flatten(1)
    mean, deviation = black / (black - white), 1 / (white - black)
    transform = T.Compose([T.ToTensor(), T.Normalize(mean.tolist(), deviation.tolist())])
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pinned}
    train, test = (
        Pictures(
            getattr(data, f"{split}_images").permute(0, 2, 3, 1).numpy(),
            getattr(data, f"{split}_labels").numpy(),
            transform,
        )
        for split in ("train", "test")
    )
    return (
        DataLoader(train, batch_size=data.batch_size, shuffle=True, **options),
        DataLoader(test, batch_size=batch_size, **options),
    )


class Clock(pl.Callback):
    """Times every batch and the validation that follows it, or what other callbacks measure before this one."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        finish()
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """End of a batch."""
        finish()
        self.seconds.append(time.perf_counter() - self.started)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End of the validation after it."""
        finish()
        if not trainer.sanity_checking:
            self.seconds[-1] = time.perf_counter() - self.started


def fit(
    module: Baseline,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    folder: str,
    accelerator: str = "cpu",
    batches: int = 1,
) -> float:
    """Train on some batches, each followed by a validation, and return the seconds of the last and its validation."""
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator=accelerator,
        devices=1,
        limit_train_batches=batches,
        val_check_interval=1,
        num_sanity_val_steps=1,  # which starts the workers
        default_root_dir=folder,
        enable_checkpointing=False,  # else one would be saved after each validation
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(module, *loaders)
    return clock.seconds[-1]
