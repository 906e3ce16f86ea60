import pytest
import torch
import torchvision
from torch import nn

from igb import models


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_weights_load_into_torchvisions_network_with_a_one_channel_conv1(name):
    ours = getattr(models, name)(10).eval()
    theirs = getattr(torchvision.models, name)(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 1, 32, 48)
    assert torch.equal(ours(images), theirs(images))
    assert ours(images).shape == (2, 10)
