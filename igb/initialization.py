"""Initialisers: each sets weights of a network in place, drawing from torch's global generator in module order.

`build` seeds that generator, so weights depend on the seed alone. What an initialiser does not reach keeps what the
network's own constructor drew, from the same seed.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

Initializer = Callable[[nn.Module], None]


def build(make_network: Callable[[], nn.Module], initialize: Initializer, seed: int) -> nn.Module:
    """Make a network on the CPU and initialise it from `seed`, leaving the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, where weights are drawn
        network = make_network()
        # The initialiser's draws do not depend on how many the constructor took.
        torch.default_generator.manual_seed(seed)
        initialize(network)
    return network


def own(network: nn.Module) -> None:
    """What the network's constructor drew, untouched; it reaches no parameter."""


def he(network: nn.Module) -> None:
    """Kaiming-normal with fan-in and gain sqrt(2) on every convolution and linear layer, head included; zero biases.

    Var(w) = 2 / fan_in (equation 10 of K. He et al., "Delving Deep into Rectifiers", arXiv 1502.01852). It reaches
    convolutions, linear layers and the projections of `nn.MultiheadAttention`; other layers get PyTorch's default, and
    parameters outside of layers, such as position embeddings, keep what the constructor drew.
    """
    torch_default(network)
    for layer in network.modules():
        if isinstance(layer, _ConvNd | nn.Linear):
            _kaiming(layer.weight, "fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.MultiheadAttention):  # whose output projection is a linear layer
            for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                if (weight := getattr(layer, name)) is not None:
                    _kaiming(weight, "fan_in")


def torchvision(network: nn.Module) -> None:
    """The rule of torchvision's ResNets on every layer, the first convolution included.

    Convolutions are Kaiming-normal with fan-out and gain sqrt(2). It reaches what `torch_default` does, which all else
    is left to.
    """
    torch_default(network)
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            _kaiming(layer.weight, "fan_out")


def replaced_conv1(network: nn.Module) -> None:
    """Torchvision's rule, but PyTorch's default on the first convolution.

    What is left when the first convolution of a torchvision network is replaced by a fresh `nn.Conv2d`. It reaches
    what `torchvision` does.
    """
    torchvision(network)
    first = next((layer for layer in network.modules() if isinstance(layer, _ConvNd)), None)
    if first is not None:
        first.reset_parameters()


def torch_default(network: nn.Module) -> None:
    """PyTorch's default of every layer: what its `reset_parameters` does.

    It reaches every layer that has that method, and `nn.MultiheadAttention`; parameters outside of such layers keep
    what the constructor drew.
    """
    for layer in network.modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
    for layer in network.modules():  # after the linear layers in them, of whose biases they zero some
        if isinstance(layer, nn.MultiheadAttention):
            layer._reset_parameters()


def _kaiming(weight: torch.Tensor, mode: Literal["fan_in", "fan_out"]) -> None:
    nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu")
