"""Initialisers: each sets a network's weights in place, drawing from torch's global generator in module order.

`build` seeds that generator, so weights depend on the seed alone. Parameters that an initialiser does not
initialise keep the values that the network's constructor drew from the same seed.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from igb._checks import InputError
from igb.statistics import undisturbed

Initializer = Callable[[nn.Module], None]


def build(make_network: Callable[[], nn.Module], initialize: Initializer, seed: int) -> nn.Module:
    """Make a network on the CPU and initialise it from `seed`, leaving the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU generator only: weights are drawn there
        network = make_network()
        # Seeded again so that the initialiser's draws do not depend on how many the constructor made.
        torch.default_generator.manual_seed(seed)
        initialize(network)
    return network


def own(network: nn.Module) -> None:
    """Keep the weights that the network's constructor drew; it initialises no parameter."""


def he(network: nn.Module) -> None:
    """Kaiming-normal with fan-in and gain sqrt(2) on every convolution and linear layer, head included; zero biases.

    Var(w) = 2 / fan_in (equation 10 of K. He et al., "Delving Deep into Rectifiers", arXiv 1502.01852). It
    initialises convolutions, linear layers and the projections of `nn.MultiheadAttention`; other layers get PyTorch's
    default, and parameters outside of layers, such as position embeddings, keep what the constructor drew.
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

    Convolutions are Kaiming-normal with fan-out and gain sqrt(2); all else is as in `torch_default`. It
    initialises the same parameters.
    """
    torch_default(network)
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            _kaiming(layer.weight, "fan_out")


def replaced_conv1(network: nn.Module) -> None:
    """Torchvision's rule, but PyTorch's default on the first convolution.

    This is the result of replacing the first convolution of a torchvision network by a fresh `nn.Conv2d`. It
    initialises the same parameters as `torchvision`.
    """
    torchvision(network)
    first = next((layer for layer in network.modules() if isinstance(layer, _ConvNd)), None)
    if first is not None:
        first.reset_parameters()


def torch_default(network: nn.Module) -> None:
    """PyTorch's default for every layer, set by its `reset_parameters`.

    It initialises every layer that has that method, and `nn.MultiheadAttention`; parameters outside of such layers
    keep what the constructor drew.
    """
    for layer in network.modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
    for layer in network.modules():  # after the linear layers inside them: it zeroes some of their biases
        if isinstance(layer, nn.MultiheadAttention):
            layer._reset_parameters()


def _kaiming(weight: torch.Tensor, mode: Literal["fan_in", "fan_out"]) -> None:
    nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu")


def calibrate(network: nn.Module, chunks: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norm to the mean of those of chunks of images, of two or more each.

    All other layers are in evaluation mode meanwhile; no weight changes.
    """
    modes = {module: module.training for module in network.modules()}
    norms = [module for module in modes if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        network.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # every chunk counts as much
        with torch.no_grad():
            for images in chunks:
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def center(
    network: nn.Module, chunks: Callable[[], Iterable[Tensor]], num_classes: int, batch_norm: str = "running"
) -> None:
    """Take the mean logit of each class over some images away from the bias of the head.

    The head is the last linear layer with an output for each class. Then all classes have a mean logit of zero, with
    batch norm in the given mode. InputError if the network does not end in such a layer with a bias.
    """
    heads = [layer for layer in network.modules() if isinstance(layer, nn.Linear) and layer.out_features == num_classes]
    if not heads or heads[-1].bias is None:
        raise InputError("center=true needs a network that ends in a linear layer with a bias")
    bias: Tensor = heads[-1].bias
    before = _mean_logits(network, chunks(), bias.device, batch_norm)
    with torch.no_grad():
        bias.sub_(before)
    left = _mean_logits(network, chunks(), bias.device, batch_norm)
    if left.abs().max() > 1e-2 * (1 + before.abs().max()):
        raise InputError("center=true needs a network whose logits are what its last linear layer returns")


def _mean_logits(network: nn.Module, chunks: Iterable[Tensor], device: torch.device, batch_norm: str) -> Tensor:
    with undisturbed(network, device, batch_norm):
        logits = [network(images).double() for images in chunks]
    return torch.cat(logits).mean(dim=0)
