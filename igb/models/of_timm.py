"""Networks of the library timm, untrained."""

from typing import Any

from torch import nn

from igb._checks import InputError, one_line


def timm(name: str, num_classes: int, in_channels: int = 1, **options: Any) -> nn.Module:
    """A network of timm by its name, with weights as its constructor draws them.

    Args:
        name: one of `timm.list_models()`.
        num_classes: C, the number of logits.
        in_channels: channels of the images.
        options: of the network, such as `img_size`.
    """
    try:
        import timm as library
    except ImportError as error:
        raise InputError(f"name={name} needs the library timm: pip install timm") from error
    if name not in library.list_models():
        raise InputError(f"name={name} is not a network of timm {library.__version__}; timm.list_models() has them")
    try:
        network: nn.Module = library.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"name={name} cannot be made with {options}: {one_line(error)}") from error
    return network
