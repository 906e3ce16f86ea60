"""`torch.func.vmap` over an autograd function: one member of the batch at a time, with the results stacked."""

from typing import Any

import torch
from torch import Tensor


def one_by_one(function: Any, info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call a function on each member; return the outputs, stacked along dimension 0, and that dimension for each."""
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
