"""A ResNet in evaluation mode with every batch norm folded into the convolution before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from igb.compute.cpu import products

CALIBRATION = 256  # images that are enough to estimate the mean input
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # the same in evaluation mode
PARTS = (nn.Sequential, BasicBlock, Bottleneck, nn.ReLU, nn.Conv2d, *NORMS)


@torch.no_grad()
def fold(network: nn.Module, dtype: torch.dtype, images: Tensor) -> nn.Module | None:
    """A copy of a network in evaluation mode, from its current weights, that computes in `dtype`, its head in float32.

    It is made for the size of `images` [N, I, H, W]; about 256 are enough to correct the shift from rounded weights.
    None if the network is not torchvision's ResNet or has layers that cannot be folded.
    """
    if type(network) is not ResNet or images.device.type == "mps":  # MPS lacks float64, which the scales need
        return None
    layer_names = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4")
    parts = [part for name in layer_names for part in network.get_submodule(name).modules()]
    if not all(map(_is_known, parts)):
        return None
    folded = FoldedResNet(network, dtype)
    folded(images[:1] if dtype == images.dtype else images)
    return folded


def _is_known(part: nn.Module) -> bool:
    """Whether a part of a ResNet is exactly as torchvision makes it, options included."""
    if isinstance(part, nn.Conv2d):
        numeric_padding = part.padding_mode == "zeros" and not isinstance(part.padding, str)
        known = numeric_padding and part.bias is None and part.groups == 1 and part.dilation == (1, 1)
    elif isinstance(part, NORMS):
        known = part.affine and part.track_running_stats
    elif isinstance(part, BasicBlock | Bottleneck) and part.downsample is not None:
        kinds = [type(layer) for layer in part.downsample.children()]
        known = kinds in [[nn.Conv2d, norm] for norm in NORMS]
    else:
        known = True
    return known and type(part) in PARTS


class FoldedResNet(nn.Module):
    """What torchvision's `ResNet.forward` computes in evaluation mode: images [N, I, H, W] to logits [N, C]."""

    def __init__(self, network: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.stem = FoldedConvolution(network.conv1, network.bn1, dtype)
        blocks = [block for stage in range(1, 5) for block in getattr(network, f"layer{stage}")]
        self.blocks = nn.ModuleList(FoldedBlock(block, dtype) for block in blocks)
        self.maxpool, self.avgpool, self.fc = network.maxpool, network.avgpool, network.fc

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C], in the precision of the images."""
        maps = self.stem(images.to(self.dtype).permute(0, 2, 3, 1))
        maps = self.maxpool(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        for block in self.blocks:
            maps = block(maps)
        features = self.avgpool(maps.permute(0, 3, 1, 2).to(images.dtype))
        logits: Tensor = self.fc(features.flatten(1))
        return logits


class FoldedBlock(nn.Module):
    """A residual block on maps [N, H, W, C]."""

    def __init__(self, block: BasicBlock | Bottleneck, dtype: torch.dtype) -> None:
        super().__init__()
        count = 3 if isinstance(block, Bottleneck) else 2
        pairs = [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in range(1, count + 1)]
        self.layers = nn.ModuleList(FoldedConvolution(*pair, dtype) for pair in pairs)
        self.downsample = None
        if block.downsample is not None:
            layer, norm = block.downsample.children()
            self.downsample = FoldedConvolution(layer, norm, dtype)

    def forward(self, maps: Tensor) -> Tensor:
        """The block's feature maps [N, H', W', O], which may overwrite `maps`."""
        shortcut = maps if self.downsample is None else self.downsample(maps, relu=False)
        *others, last = self.layers
        for layer in others:
            maps = layer(maps)
        result: Tensor = last(maps, shortcut)
        return result


class FoldedConvolution(nn.Module):
    """A convolution and the batch norm after it, in evaluation mode, on maps [N, H, W, C] in the precision `dtype`.

    BN(w * x) = (s w) * x + (b - s m) with s = g / sqrt(v + e), from batch norm's weight g, bias b, running mean m,
    running variance v and epsilon e. The size of the first maps fixes the form of the product, and their mean the bias.

    Rounding s w to bfloat16 would shift all images alike, by the rounding error times what their inputs have in common.
    In a biased network that is nearly everything, and just what p̄ shows. So the bias is corrected by the shift of their
    mean ("bias correction", M. Nagel et al., arXiv 1906.04721, section 4.2).
    """

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.norm, self.dtype = layer, norm, dtype
        self.window: products.Window | None = None

    def forward(self, maps: Tensor, shortcut: Tensor | None = None, relu: bool = True) -> Tensor:
        """The normalised feature maps [N, H', W', O], plus `shortcut`, which they may overwrite, after the ReLU."""
        if self.window is None:
            self._prepare(maps)
        assert self.window is not None
        if self.form == "direct":
            nchw = maps.permute(0, 3, 1, 2)
            result = F.conv2d(nchw, self.matrix, self.bias, self.window.stride, self.window.padding)
            return _finish(result.permute(0, 2, 3, 1), shortcut, relu)
        rows = products.rows_of(maps, self.window, self.form)
        if shortcut is not None:
            shortcut = shortcut.reshape(len(rows), -1)
        return _product(rows, self.matrix, self.bias, shortcut, relu).view(len(maps), *self.window.output, -1)

    def _prepare(self, maps: Tensor) -> None:
        kernel, stride, padding = self.layer.kernel_size, self.layer.stride, self.layer.padding
        self.window = products.window(tuple(maps.shape[1:3]), kernel, stride, padding)
        self.form = products.form(self.window, self.dtype, maps.device)
        state = {name: value.double() for name, value in self.norm.state_dict().items()}
        scale = state["weight"] / (state["running_var"] + self.norm.eps).sqrt()
        bias = state["bias"] - scale * state["running_mean"]
        weight = self.layer.weight
        exact = products.matrix_of(weight, self.window, self.form, weight.dtype, scale)
        self.matrix = exact.to(self.dtype)
        bias = bias.to(weight.dtype).repeat(len(exact) // len(bias))
        if self.dtype != weight.dtype:
            mean = products.rows_of(maps.mean(0, True, dtype=weight.dtype), self.window, self.form).mean(0)
            bias += exact.sub_(self.matrix) @ mean
        self.bias = bias.to(self.dtype)
        if self.form == "direct":
            self.matrix = self.matrix.view(len(bias), *kernel, -1).permute(0, 3, 1, 2)


def _product(rows: Tensor, matrix: Tensor, bias: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    """relu(rows @ matrix.T + bias + shortcut); the sum may overwrite the shortcut."""
    if rows.dtype != torch.bfloat16:
        if shortcut is not None:  # addmm_ adds in place, which saves a pass over the maps
            return _finish(shortcut.addmm_(rows, matrix.T), bias, relu)
    elif shortcut is None:
        # The kernel of F.linear applies the ReLU while a tile is in cache; its variant with a shortcut is slower.
        return torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "relu" if relu else "none", [], "")
    return _finish(F.linear(rows, matrix, bias), shortcut, relu)


def _finish(result: Tensor, addend: Tensor | None, relu: bool) -> Tensor:
    if addend is not None:
        result += addend
    return result.relu_() if relu else result
