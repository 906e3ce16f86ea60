import json
import math
from functools import partial

import pytest
import torch
from torch import nn

import igb
from igb import experiment, initialization, models
from igb._checks import InputError
from igb.data.sources import Digits
from igb.report.runs import read_metrics
from igb.statistics import undisturbed
from tests.conftest import tiny_config, tiny_run
from tests.helpers.networks import Tiny

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


def chunks(count=4, size=50):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 1, 32, 32, generator=generator) * 2 + 1 for _ in range(count)]


def test_calibration_sets_running_statistics_to_those_of_the_images():
    network = initialization.build(lambda: Tiny(10), initialization.he, 0).train()
    weights = {name: value.clone() for name, value in network.named_parameters()}
    initialization.calibrate(network, iter(chunks()))
    with torch.no_grad():
        maps = [network[0](images).transpose(0, 1).flatten(1) for images in chunks()]
    norm = network[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([part.mean(1) for part in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([part.var(1) for part in maps]).mean(0))
    assert norm.momentum == 0.1
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_centring_leaves_no_class_a_higher_mean_logit(batch_norm):
    network = initialization.build(lambda: Tiny(10), initialization.he, 0)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    initialization.center(network, chunks, 10, batch_norm)
    with undisturbed(network, torch.device("cpu"), batch_norm):
        logits = torch.cat([network(images) for images in chunks()])
    assert logits.std() > 0.1
    torch.testing.assert_close(logits.mean(0), torch.zeros(10), rtol=0, atol=1e-5)
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())


class Doubled(nn.Module):
    """Does more to the logits after its last linear layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1024, 10)

    def forward(self, images):
        return 2 * self.head(images.flatten(1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 10, bias=False)), "that ends in a linear layer with a bias"),
        (nn.Sequential(nn.Conv2d(1, 10, 32), nn.Flatten()), "that ends in a linear layer with a bias"),
        (Doubled(), "whose logits are what its last linear layer returns"),
    ],
)
def test_a_network_that_cannot_be_centred_is_refused(network, message):
    with pytest.raises(InputError, match=f"center=true needs a network {message}"):
        initialization.center(network, chunks, 10)


def test_remedies_are_applied_before_the_first_probe(tmp_path):
    options = ("data.scaling=raw", "init=he", "probe.batch_norm=both", "trainer.max_epochs=0")
    plain, calibrated, centred = (
        igb.load_runs(tiny_run(tmp_path / name, *options, *own)).set_index(["batch_norm", "class"])
        for name, own in (
            ("plain", []), ("calibrated", ["init.calibrate=true"]),
            ("centred", ["init.calibrate=true", "init.center=true"]),
        )
    )  # fmt: skip
    assert plain.loc["batch"].guess_fraction.tolist() == calibrated.loc["batch"].guess_fraction.tolist()
    off = {
        name: (table.loc["running"].mean_probability - table.loc["batch"].mean_probability).abs().max()
        for name, table in (("plain", plain), ("calibrated", calibrated))
    }
    assert off["calibrated"] < off["plain"] / 3
    assert centred.loc["running"].guess_fraction.max() < calibrated.loc["running"].guess_fraction.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["init.center=1"], "init.center=1 must be true or false"),
        (["init.calibrate=yes"], "init.calibrate=yes must be true or false"),
        (["init.calibrate=true", "model._target_=tests.helpers.networks.Linear"],
         "init.calibrate=true needs a network with batch norm"),
    ],
)  # fmt: skip
def test_remedies_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        experiment.build(tiny_config(*options))


def variances(network):
    """sigma_w^2 and sigma_b^2 of each layer with weights."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [(layer.weight.var().item() * layer.weight[0].numel(), layer.bias.var().item()) for layer in layers]


def test_the_mean_field_rule_draws_its_variances_on_every_layer():
    network = models.MLP(200, 32, depth=3, width=300, activation="tanh")
    initialization.mean_field(network, 1.7, 0.3)
    for weight, bias in variances(network):
        assert weight == pytest.approx(1.7, rel=0.03)
        assert bias == pytest.approx(0.3, rel=0.25)
    initialization.mean_field(network, 1.1, 0.1, relative_to_edge=True)
    assert variances(network)[1][0] == pytest.approx(1.1 * igb.theory.edge_of_chaos("tanh", 0.1), rel=0.03)
    initialization.mean_field(network, 2.0)
    assert all((layer.bias == 0).all() for layer in network.modules() if isinstance(layer, nn.Linear))


def test_a_network_drawn_so_is_as_the_theory_says():
    torch.manual_seed(0)
    network = models.MLP(10, 20, depth=6, width=600, activation="tanh")
    initialization.mean_field(network, 1.5, 0.1)
    ratio = igb.drift_ratio(network, torch.randn(500, 1, 20, 20))
    assert ratio == pytest.approx(igb.theory.propagate("tanh", 1.5, 0.1, 7).drift_ratio[-1], rel=0.2)


def test_the_orthogonal_rule_keeps_lengths():
    network = nn.Sequential(nn.Conv2d(3, 5, 2), nn.Linear(64, 64))
    initialization.orthogonal(network, gain=2.0)
    square = network[1].weight
    torch.testing.assert_close(square @ square.T, 4 * torch.eye(64), atol=1e-5, rtol=0)
    flat = network[0].weight.flatten(1)
    torch.testing.assert_close(flat @ flat.T, 4 * torch.eye(5), atol=1e-5, rtol=0)
    assert (network[1].bias == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: initialization.mean_field(net, -1.0), "weight_variance=-1.0 must be"),
        (lambda net: initialization.mean_field(net, 1.0, -0.1), "bias_variance=-0.1 must be"),
        (lambda net: initialization.mean_field(net, 1.0, 0.1, 1), "relative_to_edge=1 must be true or false"),
        (lambda net: initialization.mean_field(nn.Sequential(nn.ReLU(), nn.Tanh()), 1.0, 0.1, True),
         "relative_to_edge=true needs a network of one activation; it has relu and tanh"),
        (lambda net: initialization.mean_field(nn.Sequential(nn.Linear(2, 2), nn.ELU()), 1.0, 0.1, True),
         "relative_to_edge=true needs layers of one of relu, leaky_relu, .*; it has none"),
        (lambda net: initialization.mean_field(nn.Sequential(nn.GELU()), 1.0, 0.1, True), "there is no edge of chaos"),
        (lambda net: initialization.orthogonal(net, -1.0), "gain=-1.0 must be"),
    ],
)  # fmt: skip
def test_rules_out_of_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(models.MLP(10, 8))


DIAL = (
    "model=mlp",
    "model._target_=igb.models.MLP",
    "model.depth=5",
    "model.width=300",
    "model.activation=tanh",
    "init=mean_field",
    "trainer.max_steps=1",
    "optimizer.lr=0",
)


def entries(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_the_dial_sets_the_drift_ratio_of_an_mlp(tmp_path, ratio):
    found = []
    for seed in range(2):
        folder = tiny_run(
            tmp_path / str(seed), *DIAL, "init.bias_variance=0.1", f"init.drift_ratio={ratio}", f"seed={seed}"
        )
        network = igb.load_network(folder)
        data = Digits()
        data.setup()
        found.append(igb.drift_ratio(network, data.train_images, transform=data.scale))
        assert variances(network)[1][0] == pytest.approx(entries(folder)["init"]["weight_variance"], rel=0.05)
    assert sum(found) / len(found) == pytest.approx(ratio, rel=0.3)


def test_a_drift_ratio_that_cannot_be_had_says_what_can(tmp_path):
    message = (
        r"init.drift_ratio=0.001 is given by no weight variance from 0.01 to 100 at depth 6 and bias_variance=0.1; "
    )
    with pytest.raises(InputError, match=message):
        tiny_run(tmp_path, *DIAL, "init.bias_variance=0.1", "init.drift_ratio=0.001")
    with pytest.raises(InputError, match=r"^init\.drift_ratio needs model=mlp"):
        tiny_run(tmp_path / "other", "init=mean_field", "init.drift_ratio=1")


def test_a_network_of_a_dominance_is_the_first_that_has_it(tmp_path):
    options = (
        "model=mlp",
        "model._target_=igb.models.MLP",
        "init=he",
        "trainer.max_steps=3",
        "init.target_dominance=0.7",
        "init.tolerance=0.1",
    )
    folder = tiny_run(tmp_path / "found", *options, "probe=log")
    told = entries(folder)["init"]
    assert told["draws"] >= 1
    assert abs(told["dominance"] - 0.7) <= 0.1
    start = read_metrics(folder / "metrics.csv", 10).query("step == 0")
    assert start["guess_fraction"].max() == pytest.approx(0.7, abs=0.2)  # on test images
    same = tiny_run(
        tmp_path / "same",
        "model=mlp",
        "model._target_=igb.models.MLP",
        "init=he",
        "trainer.max_steps=3",
        "probe=log",
        f"init_seed={told['seed']}",
    )
    assert (same / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    again = tiny_run(tmp_path / "found", *options, "probe=log", "trainer.max_steps=5")
    assert entries(again)["init"] == told


def test_a_dominance_that_no_draw_has_is_one_line(tmp_path):
    message = (
        r"init.target_dominance=0.99 is that of none of 3 draws within tolerance=0.001: they have 0\.\d+ to 0\.\d+"
    )
    with pytest.raises(InputError, match=message):
        tiny_run(
            tmp_path,
            "model=mlp",
            "model._target_=igb.models.MLP",
            "init.target_dominance=0.99",
            "init.tolerance=0.001",
            "init.draws=3",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["init.target_dominance=1.5"], "init.target_dominance=1.5 must be a finite number from 0 to 1"),
        (["init.target_dominance=0.5", "init.tolerance=-1"], "init.tolerance=-1 must be"),
        (["init.target_dominance=0.5", "init.draws=0"], "init.draws=0 must be a whole number of at least 1"),
        (["init=mean_field", "init.drift_ratio=-2"], "init.drift_ratio=-2 must be"),
        (["init=he", "+init.drift_ratio=2"], "init.drift_ratio needs init=mean_field"),
        (
            ["init=mean_field", "init.drift_ratio=1", "init.target_dominance=0.5"],
            "init.drift_ratio and target_dominance",
        ),
    ],
)
def test_targets_out_of_range_are_refused_before_images_are_read(options, message):
    with pytest.raises(InputError, match=message):
        experiment.build(tiny_config(*options))


def test_a_rule_out_of_range_names_its_group(tmp_path):
    with pytest.raises(InputError, match=r"^init\.weight_variance=-1 must be"):
        tiny_run(tmp_path, "init=mean_field", "init.weight_variance=-1")


def test_the_dial_knows_of_calibrated_statistics(tmp_path):
    """By which batch norm resets the drift ratio, as it does by those of a batch."""
    options = (
        *DIAL,
        "model.norm=batch_before",
        "init.bias_variance=0.1",
        "init.drift_ratio=0.2",
        "init.calibrate=true",
    )
    weight_variance = entries(tiny_run(tmp_path, *options))["init"]["weight_variance"]
    expected = igb.theory.propagate("tanh", weight_variance, 0.1, 6, norm="batch_before").drift_ratio[-1]
    assert expected == pytest.approx(0.2, rel=1e-3)
