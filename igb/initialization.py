"""Initialisers: each sets every weight of a network in place, drawing from torch's global generator in module order.

`build` seeds that generator, so weights depend on the seed alone.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

Initializer = Callable[[nn.Module], None]


def build(make_network: Callable[[], nn.Module], initialize: Initializer, seed: int) -> nn.Module:
    """Make a network on the CPU and initialise it from `seed`, leaving the random state as it was.

    Parameters that an initialiser does not know (outside layers with `reset_parameters`) keep what the network's own
    constructor drew, from the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, where weights are drawn
        network = make_network()
        torch.default_generator.manual_seed(
            seed
        )  # the initialiser's draws do not depend on how many the constructor took
        initialize(network)
    return network


def he(network: nn.Module) -> None:
    """Kaiming-normal with fan-in and gain sqrt(2) on every convolution and linear layer, head included; zero biases.

    Var(w) = 2 / fan_in (equation 10 of K. He et al., "Delving Deep into Rectifiers", arXiv 1502.01852).
    """
    torch_default(network)
    for layer in network.modules():
        if isinstance(layer, _ConvNd | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def torchvision(network: nn.Module) -> None:
    """The rule of torchvision's ResNets on every layer, the first convolution included.

    Convolutions are Kaiming-normal with fan-out and gain sqrt(2); everything else keeps PyTorch's default.
    """
    torch_default(network)
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def replaced_conv1(network: nn.Module) -> None:
    """Torchvision's rule, but PyTorch's default on the first convolution.

    What is left when the first convolution of a torchvision network is replaced by a fresh `nn.Conv2d`.
    """
    torchvision(network)
    first = next((layer for layer in network.modules() if isinstance(layer, _ConvNd)), None)
    if first is not None:
        first.reset_parameters()


def torch_default(network: nn.Module) -> None:
    """PyTorch's default of every layer: what its `reset_parameters` does."""
    for layer in network.modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
