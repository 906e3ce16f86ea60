"""Signal propagation, layer by layer, against closed forms, the theory and plain sums."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import igb
from igb._checks import InputError
from tests.helpers.networks import Tiny


def mlp(activation, weight_variance, bias_variance, depth, width=800, classes=10, inputs=800):
    sizes = [inputs, *[width] * (depth - 1), classes]
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(weight_variance / fan_in))
        nn.init.normal_(linear.bias, std=math.sqrt(bias_variance))
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_wide_network_is_as_its_theory_says():
    network, images = mlp(nn.Tanh, 1.5, 0.2, 5), torch.randn(800, 800)
    found = igb.trace(network, images).table
    theory = igb.theory.propagate("tanh", 1.5, 0.2, 5)
    assert found["layer"].tolist() == ["0", "2", "4", "6", "8"]
    assert found["depth"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(found["variance"][:4], theory.variance[:4], rtol=0.1)
    np.testing.assert_allclose(found["drift_ratio"][:4], theory.drift_ratio[:4], rtol=0.15)
    assert igb.drift_ratio(network, images) == pytest.approx(theory.drift_ratio[-1], rel=0.15)


def test_a_layer_is_measured_as_defined():
    network, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(4 * 36, 5)),
        torch.randn(37, 3, 8, 8),
    )
    with torch.no_grad():
        outputs = {"0": network[0](images).flatten(1).double(), "3": network(images).double()}
    table = igb.trace(network, images, chunk=10).table.set_index("layer")
    for name, z in outputs.items():
        within, between = z.var(dim=0, correction=0).mean().item(), (z.mean(dim=0) ** 2).mean().item()
        assert table.loc[name, "variance"] == pytest.approx(within + between, rel=1e-6)
        assert table.loc[name, "correlation"] == pytest.approx(between / (within + between), rel=1e-6)
        assert table.loc[name, "drift_ratio"] == pytest.approx(between / within, rel=1e-6)


def test_the_drift_ratio_is_the_mean_over_heads():
    network, images = mlp(nn.ReLU, 2.0, 0.1, 3, width=60, classes=10, inputs=20), torch.randn(300, 20)
    found = igb.drift_ratio(network, images)
    between, within = [], []
    with torch.no_grad():
        features, head = network[:-1](images), network[-1]
        scale, bias = head.weight.square().mean().sqrt(), head.bias.square().mean().sqrt()
        for _ in range(3000):
            logits = features @ (scale * torch.randn(60, 10)) + bias * torch.randn(10)
            between.append(logits.mean(0).square().mean())
            within.append(logits.var(0, correction=0).mean())
    assert found == pytest.approx((torch.stack(between).mean() / torch.stack(within).mean()).item(), rel=0.03)
    assert igb.drift_ratio(network, images, chunk=7) == pytest.approx(found, rel=1e-5)


def test_nothing_cancels_where_all_images_are_nearly_one():
    network = nn.Sequential(nn.Linear(10, 50), nn.Linear(50, 3)).double()
    images = 1 + 1e-7 * torch.randn(200, 10, dtype=torch.float64)
    whole, parts = (igb.trace(network, images, chunk=chunk).table for chunk in (500, 9))
    np.testing.assert_allclose(parts["drift_ratio"], whole["drift_ratio"], rtol=1e-6)
    assert whole["drift_ratio"].between(1e11, 1e18).all()


def test_batch_norm_is_measured_in_both_modes_and_the_network_left_as_it_was():
    network, images = Tiny(10), torch.randn(60, 1, 32, 32) + 2
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    running, batch = (igb.trace(network, images, batch_norm=mode).table for mode in ("running", "batch"))
    assert running["layer"].tolist() == batch["layer"].tolist()
    assert running["drift_ratio"].iloc[0] == pytest.approx(batch["drift_ratio"].iloc[0])
    assert running["drift_ratio"].iloc[-1] != pytest.approx(batch["drift_ratio"].iloc[-1], rel=0.05)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(not layer._forward_hooks for layer in network.modules())


def test_images_may_be_bytes_that_a_transform_scales():
    network, images = Tiny(10), torch.randint(256, (30, 1, 32, 32), dtype=torch.uint8)
    scaled = igb.trace(network, images.float() / 255).table
    np.testing.assert_allclose(
        igb.trace(network, images, transform=lambda part: part / 255).table.iloc[:, 2:], scaled.iloc[:, 2:]
    )


def test_attention_and_repeated_layers_are_traced():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.shared, self.head = (
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Linear(8, 8),
                nn.Linear(8, 3),
            )

        def forward(self, images):
            attended, _ = self.attention(images, images, images)
            return self.head(self.shared(torch.relu(self.shared(attended)))[:, 0])

    network, images = Twice(), torch.randn(20, 5, 8)
    assert igb.trace(network, images).table["layer"].tolist() == ["attention", "shared", "shared#2", "head"]
    assert igb.drift_ratio(network, images) > 0


def test_it_is_drawn_with_the_theory():
    network, images = mlp(nn.ReLU, 2.0, 0.1, 4, width=50, inputs=30), torch.randn(40, 30)
    found = igb.trace(network, images)
    assert [len(axes.lines) for axes in found.plot().axes] == [1, 1, 1]
    figure = found.plot(igb.theory.propagate("relu", 2.0, 0.1, 4))
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    assert figure.axes[2].lines[0].get_ydata().tolist() == found.table["drift_ratio"].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: igb.trace(nn.ReLU(), torch.randn(5, 3)), "network has no layer with weights, such as nn.Linear"),
        (lambda: igb.trace(lambda images: images, torch.randn(5, 3)), "network must be a torch.nn.Module"),
        (lambda: igb.trace(nn.Linear(4, 2), torch.randn(5, 3)), r"the network failed on images of shape \[5, 3\]"),
        (lambda: igb.trace(nn.Linear(4, 2), torch.randn(4)), r"images must be two or more, .* shape \[4\]"),
        (lambda: igb.trace(nn.Linear(4, 2), torch.randn(5, 4), batch_norm="both"), "batch_norm=both must be one of"),
        (lambda: igb.trace(nn.Linear(4, 2), torch.randn(5, 4), chunk=0), "chunk=0 must be a whole number"),
        (lambda: igb.drift_ratio(nn.Conv2d(1, 2, 3), torch.randn(5, 1, 4, 4)), "must end in an nn.Linear .* Conv2d"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_tokens_are_no_layers_and_computed_weights_are():
    class WithToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 12))
            self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(12, 6))
            self.head = nn.Linear(6, 3)

        def forward(self, images):
            return self.head(torch.tanh(self.layer(images + self.token)))

    network = WithToken()
    assert igb.trace(network, torch.randn(6, 12)).table["layer"].tolist() == ["layer", "head"]  # of six units
    assert igb.drift_ratio(network, torch.randn(6, 12)) > 0


@pytest.mark.parametrize("bias", [True, False])
def test_a_common_step_is_what_a_step_of_the_head_does_to_other_images(bias):
    """To the logits of images that have the mean image's features: -lr (h(x) . mean h + 1) dloss/dlogits(x)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3, bias=bias)).double()
    images = torch.rand(20, 1, 4, 4, dtype=torch.float64)
    found = igb.common_step(network, images, 0.1)
    body, head = network[:3], network[3]
    mean = body(images).detach().mean(dim=0, keepdim=True)
    before = head(mean).detach()
    torch.nn.functional.cross_entropy(head(mean), torch.tensor([0])).backward()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter -= 0.1 * parameter.grad
    gradient = before.softmax(1) - torch.tensor([[1.0, 0, 0]])
    torch.testing.assert_close(head(mean).detach() - before, -found * gradient)
    assert found == pytest.approx(igb.common_step(network, images, 0.1, chunk=7))


def test_a_common_step_is_of_batch_statistics_unless_told_otherwise():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3, bias=False))
    images = torch.randn(50, 1, 4, 4) + 3
    assert igb.common_step(network, images, 1.0) == pytest.approx(0, abs=1e-8)  # the mean of each feature is zero
    assert igb.common_step(network, images, 1.0, batch_norm="running") > 1
    with pytest.raises(InputError, match=r"lr=-1 must be"):
        igb.common_step(network, images, -1)
    with pytest.raises(InputError, match=r"must end in an nn\.Linear"):
        igb.common_step(nn.Conv2d(1, 2, 3), torch.randn(5, 1, 4, 4), 0.1)
