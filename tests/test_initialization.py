import math
from functools import partial

import pytest
import torch
from torch import nn

from igb import experiment, initialization, models

RULES = ["he", "torchvision", "replaced_conv1", "torch_default"]


def build(rule, seed=0, network=models.resnet50, classes=10):
    return initialization.build(partial(network, classes), getattr(initialization, rule), seed)


def fans(weight):
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def expected_variance(rule, name, weight):
    fan_in, fan_out = fans(weight)
    default = 1 / (3 * fan_in)  # uniform on +-1/sqrt(fan_in)
    if rule == "he":
        return 2 / fan_in
    if rule == "torch_default" or weight.ndim == 2 or (rule == "replaced_conv1" and name == "conv1"):
        return default
    return 2 / fan_out


@pytest.mark.parametrize("rule", RULES)
def test_each_layer_has_the_variance_of_its_rule(rule):
    checked = 0
    for name, layer in build(rule).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.detach().double()
            expected = expected_variance(rule, name, weight)
            # the standard error of a variance is sqrt(2 / n) for a normal and less for a uniform distribution
            tolerance = 5 * math.sqrt(2 / weight.numel())
            assert weight.var().item() == pytest.approx(expected, rel=tolerance), name
            assert abs(weight.mean().item()) < 5 * math.sqrt(expected / weight.numel()), name
            checked += 1
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            assert (layer.running_mean == 0).all()
            assert (layer.running_var == 1).all()
    assert checked == 54  # 53 convolutions and the head


def test_he_is_normal_and_has_zero_biases():
    network = build("he")
    weight = network.layer4[0].conv2.weight.detach().double().flatten()
    kurtosis = ((weight - weight.mean()) ** 4).mean() / weight.var() ** 2
    assert kurtosis.item() == pytest.approx(3, abs=0.05)  # 1.8 for a uniform distribution
    assert (network.fc.bias == 0).all()
    assert (build("torch_default").fc.bias != 0).any()


def test_replaced_conv1_differs_from_torchvision_in_the_first_convolution_alone():
    one, other = build("torchvision").state_dict(), build("replaced_conv1").state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == ["conv1.weight"]


@pytest.mark.parametrize("rule", RULES)
def test_weights_depend_on_the_seed_alone(rule):
    first = build(rule, 3, models.resnet18).state_dict()
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    second = build(rule, 3, models.resnet18).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], build(rule, 4, models.resnet18).state_dict()["conv1.weight"])


class Attentive(nn.Module):
    """Attention of both kinds, and a parameter outside of layers."""

    def __init__(self, classes):
        super().__init__()
        self.position = nn.Parameter(torch.randn(7))
        self.same = nn.MultiheadAttention(64, 2)
        self.other = nn.MultiheadAttention(64, 2, kdim=32, vdim=48)
        self.head = nn.Linear(64, classes)


def test_own_is_what_the_constructor_drew():
    torch.manual_seed(5)
    expected = Attentive(10).state_dict()
    found = build("own", 5, Attentive).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("rule", [*RULES, "own"])
def test_attention_is_reached_by_every_rule_but_own(rule):
    network, drawn = build(rule, 5, Attentive), build("own", 5, Attentive)
    assert torch.equal(network.position, drawn.position)  # by no rule
    for name in ("same.in_proj_weight", "other.q_proj_weight", "other.k_proj_weight", "other.v_proj_weight"):
        weight, before = network.get_parameter(name), drawn.get_parameter(name)
        assert torch.equal(weight, before) == (rule == "own"), name
        fan_in, fan_out = fans(weight)
        expected = 2 / fan_in if rule == "he" else 2 / (fan_in + fan_out)  # Xavier, attention's default
        assert weight.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / weight.numel()))
    assert (network.same.out_proj.bias == 0).all()
    assert (network.same.in_proj_bias == 0).all()


@pytest.mark.parametrize(
    ("option", "left"),
    [("vit", {"cls_token", "pos_embed"}), ("mixer", set()), ("convnext", {"gamma"}), ("resnetv2_50", set()),
     ("cnn", set()), ("mlp", set())],
)  # fmt: skip
def test_what_lies_outside_of_layers_keeps_what_the_constructor_drew(option, left):
    config = experiment.compose("data=digits", f"model={option}", "init=own")
    network = experiment.build(config).make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    initialization.he(network)
    found = {name.rpartition(".")[2] for name, parameter in network.named_parameters() if (parameter == 7).all()}
    assert found == left
