"""A network small enough to train in a test, with the parts that matter: convolution, batch norm, dropout, head."""

import copy
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn


class Tiny(nn.Sequential):
    def __init__(self, num_classes: int, dropout: float = 0.0, in_channels: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(7),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * 7 * 7, num_classes),
        )


class Apart(Tiny):
    """Normalises each half of a training batch apart, and keeps the running statistics of the first, as two devices."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        first, second = images.tensor_split(2)
        logits = super().forward(first)
        kept = self[1]
        self[1] = copy.copy(kept)
        self[1]._buffers = {name: buffer.clone() for name, buffer in kept.named_buffers()}
        logits = torch.cat([logits, super().forward(second)])
        self[1] = kept
        return logits


class Large(Tiny):
    """Draws so many weights, with torch's arithmetic, that it takes several threads to make it."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.register_buffer("weights", torch.ones(2**20) * 2)


class TooMany(Tiny):
    """Has two logits more than there are classes."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes + 2)


class Hungry(Tiny):
    """Runs out of memory for more images than `limit`, in training or in evaluation mode."""

    def __init__(self, num_classes: int, limit: int, training: bool):
        super().__init__(num_classes)
        self.limit, self.when = limit, training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training == self.when and len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(images)


class Waiting(Tiny):
    """Looks at a value, for which it waits for the device."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits if float(logits.sum()) != 0 else logits + 1


class Two(Tiny):
    """Gives a tuple."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = super().forward(images)
        return logits, logits


class Slow(Tiny):
    """Takes two seconds for a batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(2)
        return super().forward(images)


class Explosive(Tiny):
    """Gives logits that are not finite after `fuse` calls in training mode."""

    def __init__(self, num_classes: int, fuse: int = 3):
        super().__init__(num_classes)
        self.fuse = fuse + 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.fuse -= self.training
        logits = super().forward(images)
        return logits if self.fuse > 0 else logits * float("nan")


class Linear(nn.Sequential):
    """Without batch norm."""

    def __init__(self, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(32 * 32, num_classes))


class Failing(Tiny):
    """Stops with an error in the second batch."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        if self.batches > 1:
            raise RuntimeError("out of order")
        return super().forward(images)


class Fused(Tiny):
    """Fails in training while there is a file `fuse`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and Path("fuse").exists():
            raise RuntimeError("fused")
        return super().forward(images)


class Killed(Tiny):
    """Is killed in the first batch, as by a machine that is out of memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)
