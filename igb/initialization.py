"""Initialisers: each sets a network's weights in place, drawing from torch's global generator in module order.

`build` seeds that generator, so weights depend on the seed alone. Parameters that an initialiser does not
initialise keep the values that the network's constructor drew from the same seed.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from igb import _checks
from igb._checks import InputError
from igb.models import MLP
from igb.statistics import undisturbed

Initializer = Callable[[nn.Module], None]
# The activations that `relative_to_edge` knows by their layers.
ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.GELU: "gelu", nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
}  # fmt: skip


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
    for weight in _weights(network):
        _kaiming(weight, "fan_in")
    for layer in network.modules():
        if isinstance(layer, _ConvNd | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


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


def mean_field(
    network: nn.Module, weight_variance: float = 2.0, bias_variance: float = 0.0, relative_to_edge: bool = False
) -> None:
    """Normal weights of variance `weight_variance` / fan_in and normal biases on every layer, head included.

    It is the initialisation of the mean-field theory (arXiv 1606.05340, 2505.12096; see `igb.theory`), and initialises
    what `he` does, and the biases of `nn.MultiheadAttention`.

    Args:
        network: any.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        relative_to_edge: whether `weight_variance` is in units of that at the edge of chaos, for the one activation
            that the layers of the network are.

    Raises InputError for a value out of range, and where that edge is not known.
    """
    _checks.number("weight_variance", weight_variance, at_least=0)
    _checks.number("bias_variance", bias_variance, at_least=0)
    if _checks.boolean("relative_to_edge", relative_to_edge):
        weight_variance *= _edge(network, bias_variance)
    torch_default(network)
    for weight in _weights(network):
        fan_in = weight[0].numel()
        nn.init.normal_(weight, std=(weight_variance / fan_in) ** 0.5)
    for bias in _biases(network):
        nn.init.normal_(bias, std=bias_variance**0.5)


def orthogonal(network: nn.Module, gain: float = 1.0) -> None:
    """Orthogonal weights and zero biases on every layer, head included; a convolution's is that of its flat kernels.

    A. Saxe, J. McClelland, S. Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
    Networks", arXiv 1312.6120. It initialises what `mean_field` does.

    Args:
        network: any.
        gain: the singular values; InputError unless it is 0 or more.
    """
    _checks.number("gain", gain, at_least=0)
    torch_default(network)
    for weight in _weights(network):
        nn.init.orthogonal_(weight, gain=gain)
    for bias in _biases(network):
        nn.init.zeros_(bias)


def _weights(network: nn.Module) -> Iterator[Tensor]:
    """The weights of convolutions, linear layers and attention, in module order."""
    for layer in network.modules():
        if isinstance(layer, _ConvNd | nn.Linear):
            yield layer.weight
        elif isinstance(layer, nn.MultiheadAttention):  # whose output projection is a linear layer
            for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                if (weight := getattr(layer, name)) is not None:
                    yield weight


def _biases(network: nn.Module) -> Iterator[Tensor]:
    for layer in network.modules():
        name = "in_proj_bias" if isinstance(layer, nn.MultiheadAttention) else "bias"
        is_layer = isinstance(layer, _ConvNd | nn.Linear | nn.MultiheadAttention)
        if is_layer and (bias := getattr(layer, name)) is not None:
            yield bias


def _edge(network: nn.Module, bias_variance: float) -> float:
    """The weight variance at the edge of chaos; InputError if the network's activation or its edge is not known."""
    found = {ACTIVATIONS[type(layer)] for layer in network.modules() if type(layer) in ACTIVATIONS}
    if isinstance(network, MLP):
        found = {network.activation}
    if not found:
        raise InputError(f"relative_to_edge=true needs layers of one of {', '.join(ACTIVATIONS.values())}; it has none")
    if len(found) > 1:
        raise InputError(
            f"relative_to_edge=true needs a network of one activation; it has {' and '.join(sorted(found))}"
        )
    from igb import theory  # which takes half a second to import, and few runs need

    edge = theory.edge_of_chaos(found.pop(), bias_variance)
    if math.isnan(edge):
        raise InputError(f"relative_to_edge=true: there is no edge of chaos at bias_variance={bias_variance}")
    return edge


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


def of_dominance(
    make: Callable[..., nn.Module],
    seed: int,
    dominance: Callable[[nn.Module], float],
    target: float,
    tolerance: float,
    draws: int,
) -> tuple[nn.Module, dict[str, float]]:
    """The first of some draws of a network whose dominance is a target within a tolerance, and how it was found.

    `make` takes a seed; the first draw is that of `seed`, and the others come from seeds that follow from it. What is
    found is `seed`, `draws` and `dominance`. InputError if there is none.
    """
    found = []
    for draw in range(draws):
        own = seed if draw == 0 else int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint32)[0])
        network = make(seed=own)
        found.append(dominance(network))
        if abs(found[-1] - target) <= tolerance:
            return network, {"seed": own, "draws": draw + 1, "dominance": found[-1]}
    raise InputError(
        f"target_dominance={target} is that of none of {draws} draws within tolerance={tolerance}: they have "
        f"{min(found):.3g} to {max(found):.3g}; raise draws or tolerance, or change the rule"
    )


def input_moments(images: Tensor) -> tuple[float, float]:
    """Variance s and correlation c_0 of a network's inputs, as `igb.theory.propagate` takes them, of images [N, ...].

    s is the mean square of all pixels of all images, and c_0 s that of the mean image.
    """
    pixels = images.flatten(1).double()
    variance = pixels.square().mean().item()
    return variance, pixels.mean(dim=0).square().mean().item() / variance if variance else 0.0


def set_drift_ratio(
    network: nn.Module, ratio: float, bias_variance: float, variance: float, correlation: float, batch_norm: str
) -> float:
    """Scale weights that `mean_field` drew with variance 1 so that the theory gives the logits a drift ratio.

    `variance` and `correlation` are those of the inputs. Returns the weight variance. InputError if the network is not
    an `MLP`, or no weight variance gives the ratio at its depth and bias variance.
    """
    if not isinstance(network, MLP):
        raise InputError("drift_ratio needs model=mlp, whose theory is known; target_dominance is for any network")
    norm = network.norm if not network.norm.startswith("batch") or batch_norm == "batch" else "none"
    from igb import theory

    found = theory.weight_variance_of(
        ratio, network.activation, bias_variance, len(network.layers) + 1, correlation=correlation, variance=variance,
        norm=norm, residual=network.residual,
    )  # fmt: skip
    with torch.no_grad():
        for weight in _weights(network):
            weight.mul_(found**0.5)
    return found


def _mean_logits(network: nn.Module, chunks: Iterable[Tensor], device: torch.device, batch_norm: str) -> Tensor:
    with undisturbed(network, device, batch_norm):
        logits = [network(images).double() for images in chunks]
    return torch.cat(logits).mean(dim=0)
