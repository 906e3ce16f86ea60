"""`torch.func.vmap` over an autograd function: each member of the batch by itself, and the results stacked."""

from typing import Any

import torch
from torch import Tensor


def one_by_one(function: Any, info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    """What the `vmap` of a function returns: its outputs stacked along a first dimension, and where that is."""
    each = [
        function.apply(
            *(
                value if dim is None or not isinstance(value, Tensor) else value.select(dim, number)
                for value, dim in zip(inputs, in_dims, strict=True)
            )
        )
        for number in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    return outputs, (0,) * len(outputs)
