import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import igb
from igb import experiment, initialization, models
from igb._checks import InputError
from igb._paths import config_folder
from igb.report.runs import read_metrics


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


def test_without_norm_a_resnet_is_what_untouched_running_statistics_make_it():
    """But for the epsilon under the root, by which batch norm scales: 1 / sqrt(1 + 1e-5) at each of its layers."""
    networks = [
        initialization.build(lambda norm=norm: models.resnet18(10, norm=norm), initialization.he, 0).eval()
        for norm in ("batch", "none")
    ]
    with torch.no_grad():
        with_norm, without = (network(torch.randn(50, 1, 32, 32, generator=rng())) for network in networks)
    torch.testing.assert_close(with_norm, without, rtol=1e-3, atol=1e-3)
    assert torch.equal(with_norm.argmax(1), without.argmax(1))
    assert not [layer for layer in networks[1].modules() if isinstance(layer, nn.BatchNorm2d)]


def rng():
    return torch.Generator().manual_seed(1)


def test_group_norm_and_the_stem_of_cifar():
    network = models.resnet18(10, norm="group", stem="cifar")
    kinds = {type(layer) for layer in network.modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert network.conv1(torch.zeros(1, 1, 32, 32)).shape == (1, 64, 32, 32)
    assert network.maxpool(torch.zeros(1, 64, 32, 32)).shape == (1, 64, 32, 32)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["none", "batch_before", "batch_after", "layer_before", "layer_after"])
@pytest.mark.parametrize("residual", [False, True])
def test_an_mlp_is_its_formula(norm, residual):
    torch.manual_seed(0)
    network = models.MLP(10, 4, in_channels=3, depth=3, width=8, activation="tanh", norm=norm, residual=residual).eval()
    images = torch.randn(5, 3, 4, 4)
    kind, _, place = norm.partition("_")

    def normalised(units):
        if kind == "layer":
            return torch.nn.functional.layer_norm(units, (8,))
        return units / (1 + 1e-5) ** 0.5 if kind == "batch" else units

    units = images.flatten(1)
    for number in range(3):
        linear = network.layers[number][0]
        inner = units @ linear.weight.T + linear.bias
        outer = torch.tanh(normalised(inner)) if place == "before" else normalised(torch.tanh(inner))
        units = outer + units if residual and number else outer
    torch.testing.assert_close(network(images), units @ network.head.weight.T + network.head.bias)


@pytest.mark.parametrize(("pool", "reduce"), [("max", torch.amax), ("avg", torch.mean)])
def test_a_cnn_pools_three_times(pool, reduce):
    network = models.CNN(10, 16, width=4, pool=pool)
    images = torch.randn(2, 1, 16, 16)
    maps = images
    for layer in (network[0], network[3], network[6]):
        maps = torch.relu(layer(maps))
        maps = reduce(maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)), dim=(3, 5))
    torch.testing.assert_close(network(images), network[-1](maps.flatten(1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.resnet18(10, norm="layer"), "norm=layer must be one of batch, group, none"),
        (lambda: models.resnet18(10, stem="x"), "stem=x must be one of imagenet, cifar"),
        (lambda: models.MLP(10, 8, depth=0), "depth=0 must be a whole number of at least 1"),
        (
            lambda: models.MLP(10, 8, activation="step"),
            "activation=step must be one of relu, tanh, gelu, sigmoid, linear",
        ),
        (lambda: models.CNN(10, 7), "image_size=7 must be at least 8"),
        (lambda: models.CNN(10, 8, pool="min"), "pool=min must be one of max, avg"),
        (lambda: models.timm("vgg", 10), "name=vgg is not a network of timm"),
        (lambda: models.timm("convnext_atto", 10, img_size=32), "name=convnext_atto cannot be made with .*img_size"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    "model",
    [
        "mlp",
        "cnn",
        "vit",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixer", "convnext", "resnetv2_50")),
    ],
)
@pytest.mark.parametrize("init", ["own", pytest.param("he", marks=pytest.mark.slow)])
def test_every_network_runs_and_is_loaded(tmp_path, model, init):
    """Its step and probe, in colour; where it has no batch norm both modes are one."""
    options = (
        "data=digits", "data.color=true", f"model={model}", f"init={init}", "trainer.max_steps=1", "probe.images=20",
        "probe.batch_norm=both", "trainer.accelerator=cpu", "compute.threads=1",
    )  # fmt: skip
    assert experiment.run(experiment.compose(*options), tmp_path / "run") == "completed"
    table = read_metrics(tmp_path / "run" / "metrics.csv", 10)
    network = igb.load_network(tmp_path / "run")
    has_batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    assert set(table["batch_norm"]) == ({"running", "batch"} if has_batch_norm else {"running"})
    start = table[(table["step"] == 0) & (table["batch_norm"] == "running")]
    assert start["mean_probability"].sum() == pytest.approx(1)
    if model == "mixer" and init == "own":
        assert (start["tied_fraction"] == 1).all()  # a head of zeros


@pytest.mark.parametrize(
    "options",
    [
        *(
            pytest.param([f"model={file.stem}"], marks=pytest.mark.slow)
            for file in sorted((config_folder() / "model").glob("*.yaml"))
            if file.stem not in ("timm", "resnet18")
        ),
        ["model=resnet18"],
        ["model=resnet18", "model.norm=group"], ["model=mlp", "model.norm=batch_before", "model.residual=true"],
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                ["model=resnet18", "model.norm=none"], ["model=resnet18", "model.stem=cifar"],
                ["model=cnn", "model.pool=avg"],
            )
        ),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_network_trains_and_is_measured_in_both_modes(tmp_path, options):
    """Also where a layer changes the maps of a convolution in place."""
    options = [*options, "data.batch_size=8", "trainer.max_steps=2", "probe.images=10", "probe.batch_norm=both"]
    config = experiment.compose("data=digits", "trainer.accelerator=cpu", *options)
    assert experiment.run(config, tmp_path / "run") == "completed"
    assert np.isfinite(igb.load_runs(tmp_path / "run")["loss"]).all()
