import contextlib
import copy
import json
import logging
import os
from itertools import product

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import igb
from benchmarks.precision import Autocast
from igb import experiment, initialization, models, statistics
from igb._checks import InputError
from igb.compute import Compute, fold, mode
from igb.compute.cpu import products
from igb.data.sources import Digits
from igb.losses import CrossEntropy, LossSchedule
from igb.training.classifier import Classifier
from igb.training.optimizers import sgd
from tests.conftest import needs_bfloat16, tiny_config, tiny_run
from tests.helpers.networks import Tiny

CPU = torch.device("cpu")
FORMS = ("pointwise", "map", "patches")
IMAGES = torch.zeros(2, 1, 32, 32)
NETWORKS = (models.resnet50, models.resnet18)


def network_of(make, dtype=torch.float64, seed=0, initialize=initialization.torchvision):
    """A network with running statistics and batch-norm weights as after some training."""
    network = initialization.build(lambda: make(10), initialize, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values.add_(0.2 * torch.rand(values.shape, generator=generator).to(dtype))
    return network


def batch(count, *size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, *size, generator=generator).to(dtype), torch.arange(count) % 10


def logits_and_gradients(network, images, labels, compute=None):
    """Logits, and the gradient of every parameter and of the images."""
    images = images.clone().requires_grad_()
    network.zero_grad()
    if compute is None:
        logits = network(images)
    else:
        with compute.applied(CPU):
            logits = network(images)
    F.cross_entropy(logits, labels).backward()
    return [logits.detach(), images.grad, *(parameter.grad.clone() for parameter in network.parameters())]


def relative(value, reference):
    return float((value.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("count", "size"), [(5, (32, 32)), pytest.param(3, (28, 44), marks=pytest.mark.slow)])
def test_in_float64_the_rewrites_equal_the_plain_network(make, training, count, size):
    network = network_of(make).train(training)
    images, labels = batch(count, *size)
    network.to(memory_format=torch.channels_last)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    plain = logits_and_gradients(network, images, labels)
    after = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    rewritten = logits_and_gradients(network, images, labels, Compute())
    for value, reference in zip(rewritten, plain, strict=True):
        assert relative(value, reference) < 1e-10
    for name, value in network.state_dict().items():  # running statistics too
        torch.testing.assert_close(value, after[name], rtol=1e-10, atol=1e-12)
    if not training:
        with torch.no_grad():
            assert relative(fold(network, torch.float64, images)(images), plain[0]) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("make", NETWORKS)
def test_in_float32_the_error_is_at_most_twice_that_of_the_plain_network(make):
    """Root mean square over draws and tensors, as one error is chance; SiLU, as a ReLU that flips is no rounding."""
    errors, forward = [], []
    for seed in range(2):
        network = network_of(make, seed=seed)
        for part in network.modules():
            if hasattr(part, "relu"):
                part.relu = nn.SiLU()
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(9, 1, 32, 32, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (9,), generator=generator)
        exact = logits_and_gradients(network, images, labels)
        twins = [copy.deepcopy(network).float() for _ in range(2)]
        twins[1].to(memory_format=torch.channels_last)
        values = [
            logits_and_gradients(twin, images.float(), labels, compute)
            for twin, compute in zip(twins, (None, Compute()), strict=True)
        ]
        errors.append([[relative(*pair) for pair in zip(each, exact, strict=True)] for each in values])

        network = network_of(make, seed=seed).eval()
        with torch.no_grad():
            exact_logits = network(images)
            single = network.float()
            forward.append(
                [
                    relative(twin(images.float()), exact_logits)
                    for twin in (single, fold(single, torch.float32, images.float()))
                ]
            )
    plain, rewritten = torch.tensor(errors).square().mean((0, 2)).sqrt()
    assert rewritten <= 2 * plain
    plain, folded = torch.tensor(forward).square().mean(0).sqrt()
    assert folded <= 2 * plain


WINDOWS = [
    products.window(size, kernel, stride, padding)
    for size, kernel, stride, padding in product(
        [(1, 1), (2, 2), (4, 3), (5, 6)],
        [(1, 1), (3, 3), (2, 3)],
        [(1, 1), (2, 2), (3, 1)],
        [(0, 0), (1, 1), (2, 0)],
    )
    if all(size[i] + 2 * padding[i] >= kernel[i] for i in range(2))
]


pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(
    size=pairs, kernel=pairs, stride=pairs, padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_form_that_is_chosen_is_the_convolution_for_any_window(size, kernel, stride, padding, dtype):
    window = products.window(size, kernel, stride, padding)
    hypothesis.assume(min(window.output) >= 1)
    chosen = products.form(window, dtype, torch.device("cpu"))
    hypothesis.assume(chosen != "direct")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, *kernel, generator=generator, dtype=torch.float64)
    plain = F.conv2d(images, weight, None, stride, padding)
    torch.testing.assert_close(products.convolve(images, weight, window, chosen), plain)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_convolution_for_every_window_it_is_for(form):
    windows = [
        window
        for window in WINDOWS
        if form == "patches"
        or (form == "map" and window.sees_whole_map)
        or (form == "pointwise" and window.kernel == (1, 1) and window.padding == (0, 0))
    ]
    assert len(windows) >= 9
    generator = torch.Generator().manual_seed(0)
    for window in windows:
        images = torch.randn(3, 4, *window.size, generator=generator, dtype=torch.float64).requires_grad_()
        weight = torch.randn(5, 4, *window.kernel, generator=generator, dtype=torch.float64).requires_grad_()
        plain = F.conv2d(images, weight, None, window.stride, window.padding)
        maps = products.convolve(images, weight, window, form)
        torch.testing.assert_close(maps, plain)
        seed = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
        expected = torch.autograd.grad(plain, (images, weight), seed)
        for value, reference in zip(torch.autograd.grad(maps, (images, weight), seed), expected, strict=True):
            torch.testing.assert_close(value, reference)


def test_the_rule_that_chooses_a_form():
    def chosen(size, kernel, stride=1, padding=0, dtype=torch.float32, device="cpu"):
        window = products.window((size, size), (kernel, kernel), (stride, stride), (padding, padding))
        return products.form(window, dtype, torch.device(device))

    assert chosen(8, 1) == chosen(8, 1, stride=2) == "pointwise"
    assert chosen(1, 3, padding=1) == chosen(2, 3, padding=1) == chosen(2, 3, 2, padding=1) == "map"
    assert chosen(4, 3, 2, padding=1) == "patches"
    assert chosen(4, 3, padding=1) == chosen(8, 3, padding=1, dtype=torch.bfloat16) == "direct"
    assert chosen(4, 3, padding=1, dtype=torch.bfloat16) == "patches"
    assert chosen(8, 1, device="cuda") == chosen(1, 3, padding=1, device="cuda") == "direct"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 2, dilation=2),
        nn.Conv1d(4, 6, 1),
    ],
    ids=str,
)
def test_any_convolution_layer_computes_what_it_did(layer):
    images = torch.randn(3, 4, 4) if isinstance(layer, nn.Conv1d) else torch.randn(3, 4, 4, 4)
    for inputs in (images, images[0]):  # with and without a batch dimension
        with Compute().applied(CPU):
            result = layer(inputs)
        torch.testing.assert_close(result, layer(inputs))


@pytest.mark.parametrize("make", NETWORKS)
def test_synchronised_batch_norm_is_folded_as_plain(make):
    network = make(10)
    plain = fold(network, torch.float32, IMAGES)(IMAGES)
    assert torch.equal(fold(nn.SyncBatchNorm.convert_sync_batchnorm(network), torch.float32, IMAGES)(IMAGES), plain)


def test_only_what_is_known_is_folded():
    def changed(change):
        network = models.resnet18(10)
        change(network)
        return fold(network, torch.float32, IMAGES)

    assert changed(lambda network: None) is not None
    assert changed(nn.SyncBatchNorm.convert_sync_batchnorm) is not None
    assert fold(Tiny(10), torch.float32, IMAGES) is None
    assert fold(torchvision.models.resnext50_32x4d(num_classes=10), torch.float32, IMAGES) is None  # has groups
    assert changed(lambda network: setattr(network, "relu", nn.GELU())) is None
    assert changed(lambda network: setattr(network, "conv1", nn.Conv2d(1, 64, 3))) is None  # has a bias
    assert changed(lambda network: setattr(network, "bn1", nn.BatchNorm2d(64, affine=False))) is None
    assert changed(lambda network: setattr(network.layer2[0], "downsample", nn.Identity())) is None


class LeNet(nn.Module):
    """A network that reads its feature maps in the layout that it made them in."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(4), nn.Conv2d(6, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 9, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(9, 10, 3, padding=1), nn.Conv2d(10, 4, 1),
        )  # fmt: skip
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        maps = self.layers(images)
        return self.head(maps.view(len(maps), -1))


class Deep(nn.Module):
    """A network of three-dimensional convolutions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, (1, 4, 4), stride=(1, 4, 4))
        self.head = nn.LazyLinear(10)

    def forward(self, images):
        return self.head(self.layer(images.unsqueeze(2)).flatten(1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [LeNet, Deep])
def test_a_network_of_ones_own_computes_what_it_did(make, precision):
    network = make()
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    classifier = Classifier(network, LossSchedule(CrossEntropy()), sgd(0.1), Compute(precision))
    tolerance = {} if precision == "float32" else {"rtol": 0, "atol": 0.03}
    torch.testing.assert_close(classifier(images), expected, **tolerance)


class Own(torchvision.models.ResNet):
    """A user's own ResNet, whose forward pass may do anything."""


def test_a_subclass_of_resnet_is_not_folded():
    block = torchvision.models.resnet.BasicBlock
    assert fold(Own(block, [1, 1, 1, 1], num_classes=10), torch.float32, IMAGES) is None


def test_checkpoints_load_into_torchvision(tmp_path):
    """The same module tree and state_dict in both modes, with one input channel as the only difference."""
    weights = {}
    for name in ("exact", "fast"):
        folder = tiny_run(
            tmp_path / name, f"compute={name}", "model._target_=igb.models.resnet18", "trainer.max_steps=1",
            "probe=log", "probe.images=10",
        )  # fmt: skip
        weights[name] = igb.load_network(folder).state_dict()
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    for state in weights.values():
        network.load_state_dict(state)
    assert list(weights["exact"]) == list(weights["fast"]) == list(network.state_dict())
    equal = torch.equal(weights["exact"]["fc.weight"], weights["fast"]["fc.weight"])
    assert equal is not mode.has_bfloat16(CPU)  # without bfloat16, fast is exact


def probability_and_accuracy(network, data):
    stats = statistics.measure(network, data.test_images, data.test_labels, transform=data.scale)
    return torch.stack([stats.probability, stats.accuracy])


@needs_bfloat16
def test_fast_measures_what_exact_does():
    """At initialisation, where classes compete: as near as the precision allows, which plain autocast shows."""
    data = Digits()
    data.setup()
    data.test_images, data.test_labels = data.test_images[:200], data.test_labels[:200]
    images = data.scale(data.test_images)
    for seed in range(2):
        network = initialization.build(lambda: models.resnet50(10), initialization.replaced_conv1, seed)
        twins = fold(network, torch.float32, images), fold(network, torch.bfloat16, images), Autocast(network)
        exact, fast, autocast = (probability_and_accuracy(twin, data) for twin in twins)
        assert exact[0].max() < 0.8
        for ours, theirs in zip((fast - exact).abs().amax(1), (autocast - exact).abs().amax(1), strict=True):
            assert ours <= max(0.005, theirs)  # one image in twenty is 0.05


@needs_bfloat16
def test_fast_does_not_depend_on_the_chunk(tmp_path):
    options = ["compute=fast", "model=resnet18", "trainer.max_epochs=0"]
    runs = [tiny_run(tmp_path / chunk, *options, f"probe.chunk={chunk}") for chunk in ("7", "100")]
    small, large = (igb.load_runs(folder).probability.to_numpy() for folder in runs)
    np.testing.assert_allclose(small, large, atol=1e-3)  # the products of other shapes round otherwise


@needs_bfloat16
def test_fast_runs_are_recorded_and_repeat_to_the_bit(tmp_path):
    options = ["compute=fast", "model=resnet18", "trainer.max_steps=4", "probe.batch_norm=both", "compute.threads=2"]
    folders = [tiny_run(tmp_path / name, *options) for name in ("one", "two")]
    assert folders[0].joinpath("metrics.csv").read_bytes() == folders[1].joinpath("metrics.csv").read_bytes()
    entries = json.loads((folders[0] / "run.json").read_text())
    assert (entries["precision"], entries["threads"], entries["deterministic"]) == ("bfloat16", 2, True)


def test_without_the_hardware_fast_is_exact_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mode, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.WARNING):
        folder = tiny_run(tmp_path / "fast", "compute=fast", "trainer.max_steps=2")
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "compute=fast needs AVX-512 BF16, AMX or a CUDA card with bfloat16; this run is compute=exact"
    ]
    assert json.loads((folder / "run.json").read_text())["precision"] == "float32"
    other = tiny_run(tmp_path / "exact", "trainer.max_steps=2")
    assert folder.joinpath("metrics.csv").read_bytes() == other.joinpath("metrics.csv").read_bytes()


@pytest.fixture
def flags():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)


def test_on_cuda_only_fast_may_vary(monkeypatch, flags):
    monkeypatch.setattr(mode, "has_bfloat16", lambda device: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # a user's own stays
    for compute, allowed in ((Compute(threads=1), False), (Compute("bfloat16", threads=1), True), (Compute(), False)):
        compute.set_up(torch.device("cuda"))
        assert torch.backends.cudnn.benchmark is allowed
        assert torch.are_deterministic_algorithms_enabled() is not allowed
    assert torch.get_num_threads() == mode.ALL_THREADS
    compute.set_up(CPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compute.threads=0", r"compute\.threads=0 must be a whole number of at least 1"),
        ("compute.precision=half", r"compute\.precision=half must be one of float32, bfloat16"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(InputError, match=message):
        experiment.build(tiny_config(override))


def test_a_head_keeps_its_precision():
    """Logits of a wide range would lose their last digits in bfloat16."""
    features = torch.full((2, 4), 100.0)
    head = nn.Linear(4, 3)
    with Compute("bfloat16").applied(CPU):
        assert torch.equal(head(features), F.linear(features, head.weight, head.bias))
        assert head(features[:, None]).dtype == torch.bfloat16  # inside a network, as in a transformer


def test_torch_func_works_through_the_rewrites():
    """Gradients by `torch.func` are those of autograd, also image by image."""
    torch.manual_seed(0)
    network = models.resnet18(5).to(memory_format=torch.channels_last)
    images = torch.randn(6, 1, 16, 16).to(memory_format=torch.channels_last)
    labels = torch.arange(6) % 5
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}

    def loss(parameters, images, labels):
        with Compute().applied(CPU):
            state = (parameters, {name: value.clone() for name, value in buffers.items()})
            return CrossEntropy()(torch.func.functional_call(network, state, (images,)), labels)

    for training in (True, False):
        network.train(training)
        found = torch.func.grad(loss)(parameters, images, labels)
        wanted = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        expected = torch.autograd.grad(loss(wanted, images, labels), list(wanted.values()))
        for name, gradient in zip(wanted, expected, strict=True):
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, images[:, None], labels[:, None])
    for name, gradient in each.items():  # those of the mean loss in evaluation mode are the mean of those of each image
        torch.testing.assert_close(gradient.mean(0), found[name], rtol=1e-3, atol=1e-5)


def test_on_cuda_exact_intercepts_no_function_of_torch(monkeypatch):
    made = []
    monkeypatch.setattr(mode, "_Rewrites", lambda dtype: made.append(dtype) or contextlib.nullcontext())
    with Compute().applied(torch.device("cuda")):
        assert torch.overrides._get_current_function_mode() is None
    with Compute().applied(CPU):
        pass
    assert made == [torch.float32]


def test_a_probe_corrects_rounding_on_no_more_images_than_a_chunk(tmp_path, monkeypatch):
    def fold(self, network, images):
        counts.append(len(images))

    counts = []
    monkeypatch.setattr(Compute, "fold", fold)
    for chunk in (30, 300):
        tiny_run(tmp_path / str(chunk), f"probe.chunk={chunk}", "trainer.max_epochs=0")
    assert counts == [30, 256]


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_are_those_of_the_plain_network(training):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=not training)  # torch.func lets no module change a buffer of its own
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 2, 3, padding=1)).double()
    network = network.to(memory_format=torch.channels_last).train(training)
    images = torch.randn(5, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)

    def value(images):
        return (network(images) ** 3).sum()

    def second(images):
        return torch.func.grad(lambda x: (torch.func.grad(value)(x) ** 2).sum())(images)

    expected = second(images)
    with Compute().applied(CPU):
        found = second(images)
        (again,) = torch.autograd.grad(value(images.requires_grad_()), images, create_graph=True)
        (by_autograd,) = torch.autograd.grad((again**2).sum(), images)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(by_autograd, expected)
