import pytest
import torch
import torchvision
from torch import nn

from igb import models


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_load_into_torchvisions_network_with_as_many_channels(name, channels):
    ours = getattr(models, name)(10, in_channels=channels).eval()
    theirs = getattr(torchvision.models, name)(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, channels, 32, 48)
    assert torch.equal(ours(images), theirs(images))
    assert ours(images).shape == (2, 10)
