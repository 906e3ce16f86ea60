"""What each rewrite of igb.compute contributes: steps and forward passes with one more of them at a time.

`python -m benchmarks.ablation`, alone on the machine; the ladder is measured in turn, the table shows medians. Where
there is no bfloat16, the rungs in it are left out.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench import Times, in_parts
from igb import initialization, models
from igb.compute import CALIBRATION, Compute, folding, mode
from igb.compute.cpu import products
from igb.training.step import Step

Rung = tuple[str, contextlib.AbstractContextManager[None], Callable[[], None]]

TURNS = 5
IMAGES = 500  # of a chunk


@contextlib.contextmanager
def only(*forms: str) -> Iterator[None]:
    """Inside, convolutions take no matrix form but these."""
    chosen = products.form

    def form(window: products.Window, dtype: torch.dtype, device: torch.device) -> str:
        return name if (name := chosen(window, dtype, device)) in forms else "direct"

    with mock.patch.object(products, "form", form):
        yield


def step(network: nn.Module, compute: Compute | None, images: Tensor, labels: Tensor) -> Callable[[], Any]:
    """A training step of a copy of the network."""
    network = copy.deepcopy(network).train()
    if compute:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def logits(images: Tensor) -> Tensor:
        with compute.applied(images.device) if compute else contextlib.nullcontext():
            return network(images)

    take = Step(logits, optimizer)
    return lambda: take(images, labels, F.cross_entropy)


def ladder(title: str, rungs: Sequence[Rung]) -> None:
    """Time the rungs in turn and print each beside the first."""
    times = Times()
    for turn in range(TURNS + 1):
        for name, context, work in rungs:
            with context:
                times.time(name, work) if turn else work()
    print(f"\n| {title} | ms | times the first |\n| --- | --- | --- |")
    for name, *_ in rungs:
        print(f"| {name} | {1e3 * times.median(name):.0f} | {times.median(rungs[0][0]) / times.median(name):.2f} |")


class Reusable(contextlib.AbstractContextManager[None]):
    """A context that can be entered again."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self.make = make

    def __enter__(self) -> None:
        self.context = self.make()
        self.context.__enter__()

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(None, None, None)


def forms(*names: str) -> Reusable:
    """`only`, to be entered again and again."""
    return Reusable(lambda: only(*names))


def main() -> None:
    """Print both ladders."""
    network = initialization.build(lambda: models.resnet50(10), initialization.he, 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 1, 32, 32, generator=generator)
    batch, labels = images[:32], torch.randint(0, 10, (32,), generator=generator)
    exact, fast = Compute(), Compute("bfloat16")
    exact.set_up(images.device)
    torch_norm = Reusable(lambda: mock.patch.object(mode, "_batch_norm", F.batch_norm))
    plain = Reusable(contextlib.nullcontext)
    has_fast = mode.has_bfloat16(images.device)

    rungs: list[Rung] = [
        ("eager float32", plain, step(network, None, batch, labels)),
        ("+ channels-last", plain, step(network.to(memory_format=torch.channels_last), None, batch, labels)),
        ("+ pointwise as products", both(forms("pointwise"), torch_norm), step(network, exact, batch, labels)),
        ("+ map", both(forms("pointwise", "map"), torch_norm), step(network, exact, batch, labels)),
        ("+ patches", torch_norm, step(network, exact, batch, labels)),
        ("+ accurate batch norm: exact", plain, step(network, exact, batch, labels)),
    ]
    if has_fast:
        rungs += [
            ("bfloat16, no products", forms(), step(network, fast, batch, labels)),
            ("bfloat16, products: fast", plain, step(network, fast, batch, labels)),
        ]
    ladder("training step, batch 32", rungs)
    network.to(memory_format=torch.contiguous_format).eval()
    layout = copy.deepcopy(network).to(memory_format=torch.channels_last)

    def probe(make: Callable[[], nn.Module | None]) -> Callable[[], None]:
        def work() -> None:
            twin = make()
            assert twin is not None
            in_parts(twin, images.repeat(4, 1, 1, 1), IMAGES)

        return work

    def apart(rows: Tensor, matrix: Tensor, bias: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
        return folding._finish(F.linear(rows, matrix, bias), shortcut, relu)

    passes = Reusable(lambda: mock.patch.object(folding, "_product", apart))
    folded = probe(lambda: exact.fold(layout, images[:CALIBRATION]))
    folded_fast = probe(lambda: fast.fold(layout, images[:CALIBRATION]))
    rungs = [
        ("eager float32", plain, probe(lambda: network)),
        ("+ channels-last", plain, probe(lambda: layout)),
        ("+ folding", forms(), folded),
        ("+ pointwise as products", both(forms("pointwise"), passes), folded),
        ("+ map", both(forms("pointwise", "map"), passes), folded),
        ("+ patches", passes, folded),
        ("+ shortcut inside: exact", plain, folded),
    ]
    if has_fast:
        rungs += [
            ("bfloat16, folded, no products", forms(), folded_fast),
            ("bfloat16, products", passes, folded_fast),
            ("+ ReLU inside: fast", plain, folded_fast),
            ("the same, bias corrected on 1 image, not 256", plain, probe(lambda: fast.fold(layout, images[:1]))),
        ]
    ladder("2,000 images, chunks of 500", rungs)


def both(*contexts: Reusable) -> Reusable:
    """Several contexts as one."""

    def make() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for context in contexts:
            stack.enter_context(context)
        return stack

    return Reusable(make)


if __name__ == "__main__":
    main()
