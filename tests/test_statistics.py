import copy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import igb
from igb import _settings
from igb._checks import InputError
from igb.losses import BlurryLoss, CrossEntropy, LabelSmoothing, PiecewiseZeroLoss
from igb.statistics import ClassSums, measure
from tests.helpers.networks import Tiny

CLASSES = 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Tiny(CLASSES, dropout=0.5)
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    return network


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(61, 1, 32, 32, generator=generator) * 3, torch.randint(CLASSES, (61,), generator=generator)


def by_loop(network, images, labels, loss):
    """The same numbers from a plain loop over single samples."""
    network = copy.deepcopy(network).eval()
    sums = {
        k: {"count": 0, "p": [0.0] * CLASSES, "g": [0.0] * CLASSES, "l": 0.0, "n": 0.0, "a": 0.0, "w": 0.0}
        for k in range(4)
    }
    for image, label in zip(images, labels, strict=True):
        with torch.no_grad():
            logits = network(image[None])
        row = sums[int(label)]
        row["count"] += 1
        for j, p in enumerate(F.softmax(logits[0].double(), 0).tolist()):
            row["p"][j] += p
        row["g"][int(logits.argmax())] += 1
        logits.requires_grad_()
        value = loss(logits, label[None])
        value.backward()
        row["l"] += value.item()
        row["n"] += sum(g * g for g in logits.grad[0].tolist()) ** 0.5
        row["a"] += any(g != 0 for g in logits.grad[0].tolist())
        rest = 1 - F.softmax(logits[0].detach().double(), 0)[label].item()
        row["w"] += -logits.grad[0][label].item() / rest
    return sums


class TorchsOwn(nn.Module):
    """A loss that is none of igb's."""

    def forward(self, logits, target, reduction="mean"):
        return F.cross_entropy(logits, target, reduction=reduction, label_smoothing=0.2)


@pytest.mark.parametrize("loss", [CrossEntropy(), PiecewiseZeroLoss(0.25), LabelSmoothing(0.2), TorchsOwn()], ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 20, 500])
def test_every_quantity_is_that_of_a_plain_loop_over_samples(network, data, loss, chunk):
    images, labels = data
    stats = measure(network, images, labels, loss=loss, chunk=chunk)
    expected = by_loop(network, images, labels, loss)
    total = len(labels)
    for k, row in expected.items():
        n = row["count"]
        assert stats.count[k] == n
        assert stats.probability[k].item() == pytest.approx(row["p"][k] / n, rel=1e-5)
        assert stats.accuracy[k].item() == pytest.approx(row["g"][k] / n)
        assert stats.loss[k].item() == pytest.approx(row["l"] / n, rel=1e-5)
        assert stats.gradient_norm[k].item() == pytest.approx(row["n"] / n, rel=1e-5)
        assert stats.active_fraction[k].item() == pytest.approx(row["a"] / n)
        assert stats.weight[k].item() == pytest.approx(row["w"] / n, rel=1e-4)
        assert stats.probability_matrix[k].tolist() == pytest.approx([p / n for p in row["p"]], rel=1e-5)
        assert stats.prediction_matrix[k].tolist() == pytest.approx([g / n for g in row["g"]])
        mean_probability = sum(other["p"][k] for other in expected.values()) / total
        guess_fraction = sum(other["g"][k] for other in expected.values()) / total
        assert stats.mean_probability[k].item() == pytest.approx(mean_probability, rel=1e-5)
        assert stats.guess_fraction[k].item() == pytest.approx(guess_fraction)
    assert stats.dominance == pytest.approx(max(sum(r["g"][k] for r in expected.values()) / total for k in expected))
    assert stats.probability_matrix.dtype == torch.float64


def test_batch_mode_normalises_each_chunk_by_its_own_statistics(network, data):
    images, labels = data
    stats = measure(network, images, labels, batch_norm="batch", chunk=20)  # 20, 20, and 21 with the last one
    reference = copy.deepcopy(network).train()
    reference[5].eval()  # no dropout
    probability = torch.cat([F.softmax(reference(part).double(), 1) for part in images.split([20, 20, 21])])
    for k in range(CLASSES):
        assert stats.probability[k].item() == pytest.approx(probability[labels == k, k].mean().item(), rel=1e-5)
    one_chunk = measure(network, images, labels, batch_norm="batch")
    assert not torch.allclose(one_chunk.probability, stats.probability, rtol=1e-6)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_measuring_changes_nothing(network, data, mode):
    network[5].eval()  # modes may differ between layers
    network.train()
    network[1].eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    state = torch.random.get_rng_state()
    measure(network, *data, batch_norm=mode, chunk=20)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert network[1].track_running_stats
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_network_comes_back_as_it_was_also_after_an_error(network, data):
    network.train()
    with pytest.raises(InputError):
        measure(network, torch.zeros(4, 3, 5, 5), torch.zeros(4).long(), batch_norm="batch")
    assert all(module.training for module in network.modules())
    assert network[1].track_running_stats


def test_sums_add_up_over_devices(data):
    """As all_reduce adds them: the sums of two halves add up to those of the whole."""
    logits = torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = data[1][:30]
    whole, left, right = ClassSums(CLASSES), ClassSums(CLASSES), ClassSums(CLASSES)
    whole.update(logits, labels, CrossEntropy())
    left.update(logits[:11], labels[:11], CrossEntropy())
    right.update(logits[11:], labels[11:], CrossEntropy())
    torch.testing.assert_close(left.total + right.total, whole.total, rtol=1e-14, atol=1e-14)


def test_an_absent_class_is_nan_and_leaves_the_means_over_all_images_whole(network, data):
    images, labels = data
    labels = labels.clamp(max=CLASSES - 2)
    stats = measure(network, images, labels)
    assert stats.probability[-1].isnan()
    assert stats.mean_probability.sum().item() == pytest.approx(1)
    assert stats.guess_fraction.sum().item() == pytest.approx(1)


class Fixed(nn.Module):
    """Gives its input as the logits."""

    def forward(self, logits):
        return logits


def test_broken_outputs_count_as_no_guess():
    logits = torch.zeros(4, 3)
    logits[0] = float("nan")
    stats = measure(Fixed(), logits, torch.tensor([0, 0, 1, 2]))
    assert stats.probability_matrix[0].isnan().all()
    assert stats.prediction_matrix[0].isnan().all()
    assert stats.active_fraction[0].isnan()
    assert stats.guess_fraction.isnan().all()
    assert stats.tied_fraction[0].isnan()
    assert stats.accuracy[1:].tolist() == [1 / 3, 1 / 3]


def test_saturated_outputs_keep_their_digits():
    stats = measure(Fixed(), torch.tensor([[0.0, 200.0], [0.0, 200.0]]), torch.tensor([0, 1]))
    assert stats.loss[0].item() == 200
    assert stats.probability[0].item() == pytest.approx(1.3838965267367376e-87, rel=1e-9)
    assert stats.gradient_norm[0].item() == pytest.approx(2**0.5)


def test_a_transform_scales_each_chunk(network, data):
    images, labels = data
    halved = measure(network, images, labels, transform=lambda batch: batch / 2)
    assert torch.equal(halved.probability_matrix, measure(network, images / 2, labels).probability_matrix)


def test_a_loader_gives_what_its_batches_give_in_one_tensor(network, data):
    images, labels = data
    loader = DataLoader(TensorDataset(images, labels), batch_size=20)
    for mode in ("running", "batch"):
        kept = [(images[:20], labels[:20]), (images[20:40], labels[20:40]), (images[40:60], labels[40:60])]
        by_hand = measure(network, kept, batch_norm=mode)
        whole = measure(network, images[:60], labels[:60], batch_norm=mode, chunk=20)
        assert torch.equal(by_hand.probability_matrix, whole.probability_matrix)
        assert torch.equal(by_hand.gradient_norm, whole.gradient_norm)
    stats = measure(network, loader)
    assert stats.count.sum() == 61
    torch.testing.assert_close(stats.probability, measure(network, images, labels).probability)


def test_a_shuffled_loader_leaves_the_random_state(network, data):
    state = torch.random.get_rng_state()
    stats = measure(network, DataLoader(TensorDataset(*data), batch_size=61, shuffle=True))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(stats.probability, measure(network, *data).probability)


@pytest.mark.parametrize(
    ("batches", "labels", "message"),
    [
        ([], None, "the DataLoader yielded no batches"),
        ([torch.zeros(3, 2)], None, "a batch must be images and labels"),
        ([(torch.zeros(3, 2), "ab")], None, "labels must be a tensor, or an array of numbers"),
        ([(torch.zeros(3, 2), torch.zeros(2).long())], None, "one for each of 3 images"),
        (
            [(torch.zeros(1, 2), torch.tensor([0])), (torch.zeros(1, 2), torch.tensor([2]))],
            None,
            "between 0 and 1.*and 2",
        ),
        (iter([]), torch.zeros(3), "a DataLoader supplies its own"),
        (torch.zeros(3, 2), None, "labels must be given"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batches, labels, message):
    with pytest.raises(InputError, match=message):
        igb.measure(Fixed(), batches, labels)


@pytest.mark.parametrize("given", [lambda x: (x, None), lambda x: SimpleNamespace(logits=x), lambda x: x])
def test_logits_are_found_where_networks_leave_them(network, data, given):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return given(self.network(images))

    assert torch.equal(measure(Wrapped(), *data).probability_matrix, measure(network, *data).probability_matrix)


@pytest.mark.parametrize("output", [None, [1.0], {"logits": 1}, "logits", ()])
def test_what_has_no_logits_is_named(output):
    with pytest.raises(InputError, match=f"two or more classes; it returned a {type(output).__name__}"):
        measure(lambda images: output, torch.zeros(3, 2), torch.zeros(3).long())


def test_arrays_lists_and_other_precisions_are_measured_as_tensors_are(network, data):
    images, labels = data
    expected = measure(network, images, labels).probability_matrix
    ways = [(images.numpy(), labels.numpy()), (images.tolist(), labels.tolist()), (list(images), tuple(labels))]
    ways += [(images.double(), labels.to(torch.uint8)), (images.double().numpy(), labels.int())]
    for some, their in ways:
        assert torch.equal(measure(network, some, their).probability_matrix, expected)
    assert torch.equal(measure(network, [(images.numpy(), labels.tolist())]).probability_matrix, expected)
    close = measure(copy.deepcopy(network).double(), images, labels).probability_matrix
    torch.testing.assert_close(close, expected, rtol=1e-4, atol=1e-6)
    assert measure(Fixed(), torch.zeros(3, 2), torch.tensor([0, 1, 1], dtype=torch.uint16)).count.tolist() == [1, 2]
    pixels = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert torch.equal(measure(network, pixels, labels).loss, measure(network, pixels.float(), labels).loss)


def test_a_plain_function_is_measured(data):
    images, labels = data
    weights = torch.randn(images[0].numel(), CLASSES)
    stats = measure(lambda batch: batch.flatten(1) @ weights, images, labels)
    assert torch.equal(stats.accuracy, measure(Fixed(), images.flatten(1) @ weights, labels).accuracy)


@pytest.mark.parametrize("images", [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 7), torch.zeros(3, 2) > 0])
def test_images_that_the_network_does_not_take_are_one_line(images):
    with pytest.raises(InputError, match=r"the network failed on images of shape \[3, \d\] and dtype torch\.\w+: "):
        measure(nn.Linear(2, 2), images, [0, 1, 1])


def test_the_images_stay_as_they_are():
    images = np.random.default_rng(0).normal(size=(6, 4))[::-1]  # of a negative stride, which torch lacks
    kept = torch.randn(6, 4)
    before = kept.clone()
    for given in (images, kept):
        measure(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), given, [0, 1, 2] * 2)
    with torch.inference_mode():
        measure(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), kept.clone(), [0, 1, 2] * 2)
    assert torch.equal(kept, before)


def test_it_measures_in_inference_mode(network, data):
    expected = measure(network, *data)
    with torch.inference_mode():
        made = tuple(part.clone() for part in data)
        for images, labels in (data, made):
            found = measure(network, images, labels)
            assert torch.equal(found.gradient_norm, expected.gradient_norm)
            assert torch.equal(found.active_fraction, expected.active_fraction)


def test_tf32_is_off_while_it_measures_and_then_as_it_was():
    def network(images):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return images

    seen = []
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        measure(network, torch.zeros(3, 2), [0, 1, 1])
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert seen == [(False, False)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_of_products_is_as_it_was_and_can_be_set_afterwards(precision):
    code = f"""
import torch
from igb import measure
torch.set_float32_matmul_precision({precision!r})
def network(images):
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
    return images
before = torch.backends.cuda.matmul.fp32_precision
measure(network, torch.zeros(3, 2), [0, 1, 1])
assert torch.get_float32_matmul_precision() == {precision!r}
assert torch.backends.cuda.matmul.fp32_precision == before
assert torch.backends.cudnn.allow_tf32
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_tf32_is_off_where_torch_has_the_older_names_alone(precision, monkeypatch):
    """As before torch 2.9."""
    monkeypatch.setattr(_settings, "HAS_NEWER_NAMES", False)
    set_to = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    with _settings.without_tf32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert set_to == ([] if precision == "highest" else ["highest", precision])


@pytest.mark.slow
def test_tf32_set_for_the_whole_process_is_off_while_it_measures():
    code = """
import torch
from igb import measure
torch.backends.fp32_precision = "tf32"
def network(images):
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
    return images
measure(network, torch.zeros(3, 2), [0, 1, 1])
assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_tf32_set_by_its_newer_name_comes_back_too():
    code = """
import torch
from igb import measure
parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
for part in parts:
    part.fp32_precision = "tf32"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
def network(images):
    assert [part.fp32_precision for part in parts] == ["ieee", "ieee"]
    return images
measure(network, torch.zeros(3, 2), [0, 1, 1])
assert [part.fp32_precision for part in parts] == ["tf32", "tf32"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transform_may_return_the_images_themselves(network, data):
    class InPlace(torch.nn.Module):
        def forward(self, images):
            return network(images.mul_(2))

    images, labels = data
    before = images.clone()
    measure(InPlace(), images, labels, transform=lambda batch: batch)
    assert torch.equal(images, before)


def test_a_network_that_fails_is_named_in_one_line(data):
    def network(images):
        raise ValueError("expected 3D input")

    with pytest.raises(InputError, match=r"the network failed on images of shape .*expected 3D input"):
        measure(network, *data, transform=lambda batch: batch)


def test_a_plain_function_has_no_batch_statistics(network, data):
    with pytest.raises(InputError, match="batch_norm=batch needs a network that is a"):
        measure(lambda images: network(images), *data, batch_norm="batch")
    expected = measure(network, *data, batch_norm="batch")
    found = measure(network.forward, *data, batch_norm="batch")
    assert torch.equal(found.probability_matrix, expected.probability_matrix)


def test_read_only_arrays_are_taken(network, data):
    images = data[0].numpy().copy()
    images.flags.writeable = False
    assert measure(network, images, data[1]).dominance > 0


def test_a_tie_is_shared_among_its_classes():
    logits = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2], [3, 0, 3, 3]], dtype=torch.float64)
    stats = measure(Fixed(), logits, torch.tensor([0, 0, 3, 1]))
    assert stats.prediction_matrix[[0, 1, 3]].tolist() == [
        [(1 / 4 + 1 / 2) / 2, (1 / 4 + 1 / 2) / 2, 1 / 8, 1 / 8], [1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 1],
    ]  # fmt: skip
    assert stats.tied_fraction[[0, 1, 3]].tolist() == [1, 1, 0]
    assert stats.guess_fraction.sum().item() == pytest.approx(1)


def test_equal_outputs_favour_no_class():
    """As of a head that starts at zero: torchvision's ViT, timm's Mixer."""
    stats = measure(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)).apply(zeroed), torch.randn(20, 4), [*range(5)] * 4)
    assert stats.guess_fraction.tolist() == stats.mean_probability.tolist()
    assert stats.dominance == pytest.approx(0.2)
    assert stats.tied_fraction.tolist() == [1] * 5


def zeroed(layer):
    if isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_a_plot_is_figure_1(network, data):
    stats = measure(network, *data)
    (axes,) = stats.plot(["ant", "bee", "cat", "dog"]).axes
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == [*stats.probability.tolist(), *stats.mean_probability.tolist()]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ant", "bee", "cat", "dog"]
    assert [label.get_text() for label in stats.plot().axes[0].get_xticklabels()] == list("0123")
    with pytest.raises(InputError, match="expected 4 class_names, got 1"):
        stats.plot(["ant"])


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), {}, "labels must be whole numbers, one for each of 3 images"),
        (torch.zeros(3, 2), torch.zeros(3), {}, "labels must be whole numbers.*float32"),
        (torch.zeros(0, 2), torch.zeros(0).long(), {}, "one for each of 0 images"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), {}, "labels must be between 0 and 1.*between 0 and 2"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), {}, "they are between -1 and 1"),
        (torch.zeros(3, 2, 2), torch.zeros(3).long(), {}, r"logits \[N, C\].*; it returned shape \(3, 2, 2\)"),
        (torch.zeros(3, 2), torch.zeros(3).long(), {"chunk": 0}, "chunk=0 must be a whole number of at least 1"),
        (torch.zeros(3, 2), torch.zeros(3).long(), {"chunk": 1, "batch_norm": "batch"}, "chunk=1 must.*at least 2"),
        (torch.zeros(1, 2), torch.zeros(1).long(), {"batch_norm": "batch"}, "needs two or more images"),
        (torch.zeros(3, 2), torch.zeros(3).long(), {"batch_norm": "both"}, "batch_norm=both must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, options, message):
    with pytest.raises(InputError, match=message):
        igb.measure(Fixed(), images, labels, **options)


def test_the_weight_is_what_a_loss_lets_through_also_of_certain_samples():
    """Where p_y is 1 to the last digit, and where nothing is left of it."""
    logits, labels = torch.tensor([[80.0, 0.0], [0.0, 80.0], [0.0, 0.0]]), torch.tensor([0, 0, 0])
    for loss, expected in (
        (CrossEntropy(), 1.0), (PiecewiseZeroLoss(0.1), 2 / 3),
        (BlurryLoss(0.5, detach_weight=True), (1 + 0.5**0.5) / 3),
    ):  # fmt: skip
        weight = measure(lambda images: logits, torch.zeros(3, 1), labels, loss=loss).weight
        assert weight[0].item() == pytest.approx(expected, rel=1e-6)
    broken = measure(lambda images: logits * torch.nan, torch.zeros(3, 1), labels).weight
    assert broken[0].isnan()


def test_the_drift_ratio_is_the_variance_of_mean_logits_over_that_of_logits():
    """Whatever is added to all logits of an image, and in chunks as at once."""
    torch.manual_seed(0)
    logits = torch.randn(300, 10, dtype=torch.float64) + 2 * torch.randn(10) + 100 * torch.randn(300, 1)
    labels = torch.arange(300) % 10
    centred = logits - logits.mean(1, keepdim=True)
    within = centred.var(0, correction=0).sum() / 9
    found = measure(Fixed(), logits, labels).drift_ratio
    torch.testing.assert_close(found.mean(), centred.mean(0).square().sum() / 9 / within)
    torch.testing.assert_close(found, centred.mean(0).square() * 10 / 9 / within)
    torch.testing.assert_close(measure(Fixed(), logits, labels, chunk=7).drift_ratio, found)


def test_the_drift_ratio_is_that_of_its_theory_over_networks():
    torch.manual_seed(0)
    images, labels = torch.randn(400, 300), torch.arange(400) % 10
    found = []
    for _ in range(40):
        hidden = torch.relu(images @ (torch.randn(300, 300) * (2 / 300) ** 0.5))
        found.append(measure(Fixed(), hidden @ torch.randn(300, 10), labels).drift_ratio.mean())
    expected = igb.theory.propagate("relu", 2.0, 0.0, 2).drift_ratio[-1]
    assert torch.stack(found).mean().item() == pytest.approx(expected, rel=0.2)


@pytest.mark.filterwarnings("error")
def test_equal_outputs_have_no_drift_ratio():
    assert measure(Fixed(), torch.zeros(4, 3), torch.arange(4) % 3).drift_ratio.isnan().all()
