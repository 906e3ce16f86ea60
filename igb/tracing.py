"""Signal propagation in any network: variance, correlation and drift ratio of what each layer with weights gives."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from igb import _batches, _checks
from igb._checks import InputError
from igb.statistics import BATCH_NORM_MODES, called, check_chunk, place_of, tensor_of, undisturbed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from igb.theory import Propagation


@dataclass(frozen=True)
class Trace:
    """What `trace` found: `table` has a row for each layer with weights, in the order in which they are called.

    Columns: `depth`, from 1; `layer`, the module's name, with `#2` and so on for a further call of it; `variance`,
    `correlation`, `drift_ratio`, as `trace` defines them.

    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> trace(network, torch.randn(20, 1, 8, 8)).table[['depth', 'layer']].to_numpy().tolist()
    [[1, '1'], [2, '3']]
    """

    table: pd.DataFrame

    def plot(self, theory: "Propagation | None" = None) -> "Figure":
        """Correlation, drift ratio and variance against depth, with the lines of a `theory` if given, by matplotlib."""
        from igb import _plots  # which takes a while to import

        return _plots.trace(self.table, theory)


def trace(
    network: nn.Module,
    images: Any,
    *,
    batch_norm: str = "running",
    chunk: int = 500,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Trace:
    """Measure how variance and correlation pass through a network, layer by layer, in one pass over the images.

    A layer is any module with a weight of its own of two or more dimensions: linear, convolution, attention. Its
    output before norm and activation is z[n, i], of images n and units i: channels and positions. In the terms of
    `igb.theory` (arXiv 2505.12096), with averages over the units in place of those over weights,

        V = mean_i Var_n z[n, i],   T = mean_i (mean_n z[n, i])^2,

    `variance` is V + T, `correlation` T / (V + T) and `drift_ratio` T / V. Of N images, the mean adds V / N to T. Sums
    are float64, of one chunk at a time; outputs whose first dimension is not that of the images are left out.

    Args:
        network: any module; it is left as it was.
        images: [N, ...], as the network takes them, or as `transform` does: a tensor, an array or a list.
        batch_norm: `running` or `batch`, as of `igb.measure`.
        chunk: images per forward pass.
        transform: applied to each chunk on the network's device, such as `ImageData.scale`.

    Raises InputError for a network without such layers, and for images that do not fit it.
    """
    moments: dict[str, _Moments] = {}

    def record(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        moments.setdefault(name, _Moments()).add(output)

    _run(network, images, batch_norm, chunk, transform, record)
    rows = [
        {
            "depth": depth,
            "layer": name,
            "variance": found.within + found.between,
            "correlation": found.between / (found.within + found.between or float("nan")),
            "drift_ratio": _ratio(found.between, found.within),
        }
        for depth, (name, found) in enumerate(moments.items(), start=1)
    ]
    return Trace(pd.DataFrame(rows))


def drift_ratio(
    network: nn.Module,
    images: Any,
    *,
    batch_norm: str = "running",
    chunk: int = 500,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """The drift ratio of a network's logits, averaged exactly over all that its head could have been drawn as.

    With features h[n, f] before the head, a linear layer whose weights have mean square s^2 and its biases b^2, the
    logits have T = s^2 sum_f (mean_n h[n, f])^2 + b^2 and V = s^2 sum_f Var_n h[n, f] over heads of this size; the
    drift ratio is T / V. The K logits of one head alone give it to a factor of 1 +- sqrt(2 / (K - 1)), 47 % for ten.
    Of the biases there are no more than K: where b^2 is a large part of T, it is known to 1 +- sqrt(2 / K) itself.
    What dominance it brings: `igb.theory.guesses`.

    Arguments are those of `trace`. Raises InputError for a network whose last layer with weights is not linear, and for
    images that do not fit it.
    """
    layer, moments = _head(network, images, batch_norm, chunk, transform)
    square = layer.weight.detach().double().square().mean().item() * moments.units
    bias = 0.0 if layer.bias is None else layer.bias.detach().double().square().mean().item()
    return _ratio(square * moments.between + bias, square * moments.within)


def common_step(
    network: nn.Module,
    images: Any,
    lr: float,
    *,
    batch_norm: str = "batch",
    chunk: int = 500,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """How far a first step of SGD on one image moves the logits of every image alike, by the network's head.

    With features h before a linear layer, a step of size lr on image x moves the logits of image x' by
    -lr (h(x) . h(x') + 1) dloss/dlogits(x), where the 1 is the bias's, if there is one. What the features of all images
    have in common is in every such product: lr (|mean_n h|^2 + 1) is returned, in logits per unit of the gradient with
    respect to them. Where it is large, the first steps move all images to one class; docs/study.md says how large.

    Other arguments are those of `trace`; batch statistics are what training sees. Raises InputError as `drift_ratio`.
    """
    _checks.number("lr", lr, at_least=0)
    layer, moments = _head(network, images, batch_norm, chunk, transform)
    return lr * (moments.units * moments.between + (layer.bias is not None))


def _head(
    network: nn.Module,
    images: Any,
    batch_norm: str,
    chunk: int,
    transform: Callable[[Tensor], Tensor] | None,
) -> "tuple[nn.Linear, _Moments]":
    """The linear layer that a network ends in, and the moments of its features."""
    head: list[tuple[nn.Module, Any]] = []
    moments = _Moments()

    def record(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        head[:] = [(layer, inputs[0] if inputs else None)]

    def add() -> None:
        layer, features = head[0]
        if not isinstance(layer, nn.Linear) or not isinstance(features, Tensor) or features.ndim != 2:
            raise InputError(
                f"network must end in an nn.Linear of features [N, F]; its last layer is {type(layer).__name__}"
            )
        moments.add(features)

    _run(network, images, batch_norm, chunk, transform, record, add)
    layer = head[0][0]
    assert isinstance(layer, nn.Linear)
    return layer, moments


class _Moments:
    """Mean and variance of each unit over images, chunk by chunk without cancellation (T. Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        values = values.detach()
        values = (values.cpu() if values.device.type == "mps" else values).flatten(1).double()  # mps has no float64
        count, mean = len(values), values.mean(dim=0)
        squares = (values - mean).square().sum(dim=0)
        if self.count:
            if mean.shape != self.mean.shape:
                raise InputError(f"images must be alike: a layer gave {len(self.mean)} units, and then {len(mean)}")
            total, away = self.count + count, mean - self.mean
            squares += self.squares + away.square() * self.count * count / total
            mean = self.mean + away * count / total
        self.count, self.mean, self.squares = self.count + count, mean, squares

    @property
    def units(self) -> int:
        return len(self.mean)

    @property
    def within(self) -> float:
        return (self.squares / self.count).mean().item()

    @property
    def between(self) -> float:
        return self.mean.square().mean().item()


def _has_weights(layer: nn.Module) -> bool:
    """Whether a module has a weight of its own, by itself or computed from others, as by weight norm."""
    named = [name for name, one in layer.named_parameters(recurse=False) if one.ndim > 1 and name.endswith("weight")]
    return bool(named) or parametrize.is_parametrized(layer)


def _run(
    network: nn.Module,
    images: Any,
    batch_norm: str,
    chunk: int,
    transform: Callable[[Tensor], Tensor] | None,
    record: Callable[[str, nn.Module, Any, Tensor], None],
    after: Callable[[], None] = lambda: None,
) -> None:
    """Pass images through a network, recording each layer with weights: its name, itself, its inputs and output."""
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network must be a torch.nn.Module, whose layers can be seen; it is a {type(network).__name__}"
        )
    check_chunk(chunk, _checks.choice("batch_norm", batch_norm, BATCH_NORM_MODES))
    images = tensor_of("images", images)
    if images.ndim < 2 or len(images) < 2:
        raise InputError(f"images must be two or more, [N, ...]; they have shape {list(images.shape)}")
    layers = [
        (name or type(layer).__name__, layer)
        for name, layer in network.named_modules()
        if _has_weights(layer) and ".parametrizations." not in f".{name}."
    ]
    if not layers:
        raise InputError("network has no layer with weights, such as nn.Linear or nn.Conv2d")
    calls: dict[str, int] = {}
    count = 0

    def hook(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or first.ndim < 2 or len(first) != count:
            return
        calls[name] = calls.get(name, 0) + 1
        record(name if calls[name] == 1 else f"{name}#{calls[name]}", layer, inputs, first)

    device, dtype = place_of(network, images.device)
    with ExitStack() as hooks, undisturbed(network, device, batch_norm):
        for name, layer in layers:
            handle = layer.register_forward_hook(
                lambda module, inputs, output, name=name: hook(name, module, inputs, output)
            )
            hooks.callback(handle.remove)
        for batch in _batches.split(images, chunk):
            calls.clear()
            count = len(batch)
            batch = batch.to(device)
            given, own = (transform(batch), None) if transform else (batch, dtype)
            called(network, given, own)
            if not calls:
                raise InputError("network calls no layer with weights on the images")
            after()


def _ratio(between: float, within: float) -> float:
    return between / within if within else float("inf") if between else float("nan")
