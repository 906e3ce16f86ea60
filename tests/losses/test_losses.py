import math

import pytest
import torch
import torch.nn.functional as F

from igb._checks import InputError
from igb.losses import BlurryLoss, CrossEntropy, LossSchedule, PiecewiseZeroLoss, curve_points, loss_curve

ALL = [CrossEntropy(), BlurryLoss(), BlurryLoss(detach_weight=True), PiecewiseZeroLoss(), PiecewiseZeroLoss(1.0)]
GAMMA, CUTOFF = 0.7, 0.1


def samples(count=400, classes=10, scale=4.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64) * scale
    return logits.to(dtype), torch.randint(classes, (count,), generator=generator)


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    values = loss(logits, target, reduction="none")
    values.sum().backward()
    return values.detach(), logits.grad


# p_y -> loss, and dloss / dlog p_y, written out from equations 1 to 3
CLOSED_FORMS = [
    (CrossEntropy(), lambda p: -math.log(p), lambda p: -1.0),
    (BlurryLoss(GAMMA), lambda p: -(p**GAMMA) * math.log(p), lambda p: -(p**GAMMA) * (1 + GAMMA * math.log(p))),
    (BlurryLoss(GAMMA, detach_weight=True), lambda p: -(p**GAMMA) * math.log(p), lambda p: -(p**GAMMA)),
    (PiecewiseZeroLoss(CUTOFF), lambda p: -math.log(p) if p > CUTOFF else 0.0, lambda p: -1.0 if p > CUTOFF else 0.0),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("loss", "formula", "slope"), CLOSED_FORMS, ids=[str(loss) for loss, *_ in CLOSED_FORMS])
def test_values_and_gradients_are_those_of_the_equations(loss, formula, slope, dtype, tolerance):
    logits, target = samples(dtype=dtype)
    values, gradient = value_and_gradient(loss, logits, target)
    for row, label, value, got in zip(
        logits.tolist(), target.tolist(), values.tolist(), gradient.tolist(), strict=True
    ):
        weights = [math.exp(z - max(row)) for z in row]
        p = [weight / sum(weights) for weight in weights]
        assert value == pytest.approx(formula(p[label]), rel=tolerance, abs=tolerance)
        for j in range(len(row)):
            expected = slope(p[label]) * ((j == label) - p[j])
            assert got[j] == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_the_mean_is_over_the_batch(loss):
    logits, target = samples()
    torch.testing.assert_close(loss(logits, target), loss(logits, target, reduction="none").mean())


def test_cross_entropy_is_torchs():
    logits, target = samples(dtype=torch.float32)
    torch.testing.assert_close(CrossEntropy()(logits, target), F.cross_entropy(logits, target))


@pytest.mark.parametrize("same", [PiecewiseZeroLoss(0), BlurryLoss(0), BlurryLoss(0, detach_weight=True)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_limits_are_cross_entropy_to_the_last_bit(same, scale, reduction):
    logits, target = samples(scale=scale, dtype=torch.float32)
    results = []
    for loss in (CrossEntropy(), same):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target, reduction=reduction)
        value.sum().backward()
        results.append((value, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("loss", [*ALL, PiecewiseZeroLoss(0), BlurryLoss(0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_logits_give_finite_values_and_gradients(loss, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0]], dtype=dtype)
    for label in range(3):
        values, gradient = value_and_gradient(loss, logits, torch.full((4,), label))
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        assert values.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("loss", ALL, ids=str)
@pytest.mark.parametrize("place", [0, 1])
def test_nan_logits_give_nan_also_where_the_loss_is_dead(loss, place):
    logits = torch.zeros(2, 10)
    logits[0, place] = math.nan
    values, _ = value_and_gradient(loss, logits, torch.zeros(2, dtype=torch.long))
    assert values[0].isnan()
    assert values[1].isfinite()
    assert loss(logits, torch.zeros(2, dtype=torch.long)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 7, 10, 49, 1000])
@pytest.mark.parametrize("level", [0.0, 5.3, -1e3])
def test_uniform_outputs_are_dead_at_one_over_the_number_of_classes(classes, level, dtype):
    loss = PiecewiseZeroLoss(cutoff=1 / classes)
    logits = torch.full((1, classes), level, dtype=dtype)
    values, gradient = value_and_gradient(loss, logits, torch.tensor([1]))
    assert values.item() == 0
    assert (gradient == 0).all()
    logits[0, 1] += 1e-3  # just above the cutoff it lives
    values, gradient = value_and_gradient(loss, logits, torch.tensor([1]))
    assert values.item() > 0
    assert gradient[0, 1] < 0


def test_blurry_gradient_points_the_wrong_way_below_its_threshold():
    threshold = math.exp(-1 / GAMMA)
    _, gradient = loss_curve(BlurryLoss(GAMMA), torch.tensor([threshold * 0.99, threshold * 1.01]))
    assert gradient[0] > 0 > gradient[1]
    _, gradient = loss_curve(BlurryLoss(GAMMA, detach_weight=True), torch.tensor([threshold * 0.99]))
    assert gradient[0] < 0


@pytest.mark.parametrize(("loss", "formula", "slope"), CLOSED_FORMS, ids=[str(loss) for loss, *_ in CLOSED_FORMS])
def test_loss_curve_is_the_closed_form(loss, formula, slope):
    probabilities = torch.logspace(-6, -0.01, 57, dtype=torch.float64)
    values, gradients = loss_curve(loss, probabilities)
    for p, value, gradient in zip(probabilities.tolist(), values.tolist(), gradients.tolist(), strict=True):
        assert value == pytest.approx(formula(p), rel=1e-9)
        assert gradient == pytest.approx(slope(p) * (1 - p), rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "places"),
    [
        (CrossEntropy(), []),
        (BlurryLoss(0.7), [math.exp(-1 / 0.7)]),
        (BlurryLoss(0.7, detach_weight=True), []),
        (PiecewiseZeroLoss(0.15), [0.15]),
    ],
    ids=str,
)
def test_curve_points_stand_to_both_sides_of_each_change(loss, places):
    points = curve_points(loss)
    assert (points[0].item(), points[-1].item()) == (1e-6, 1)
    assert (points.diff() > 0).all()
    _, gradients = loss_curve(loss, points)
    changes = gradients[:-1].sign() != gradients[1:].sign()
    changes[-1] = False  # to certainty, where no gradient is left
    low, high = points[:-1][changes], points[1:][changes]
    assert low.tolist() == pytest.approx(places, rel=1e-9)
    assert high.tolist() == pytest.approx(places, rel=1e-9)


def test_loss_curve_ends_at_certainty():
    values, gradients = loss_curve(CrossEntropy(), torch.tensor([1.0]))
    assert values.item() == pytest.approx(0, abs=1e-15)
    assert gradients.item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlurryLoss(-0.1), "gamma=-0.1 must be a finite number of at least 0"),
        (lambda: BlurryLoss(math.nan), "gamma=nan must be"),
        (lambda: BlurryLoss(math.inf), "gamma=inf must be"),
        (lambda: BlurryLoss(detach_weight="yes"), "detach_weight=yes must be true or false"),
        (lambda: PiecewiseZeroLoss(-0.1), "cutoff=-0.1 must be a finite number from 0 to 1"),
        (lambda: PiecewiseZeroLoss(1.1), "cutoff=1.1 must be"),
        (lambda: PiecewiseZeroLoss(math.nan), "cutoff=nan must be"),
        (lambda: LossSchedule(CrossEntropy(), -1), "warmup_epochs=-1 must be a whole number of at least 0"),
        (lambda: LossSchedule(CrossEntropy(), 1.5), "warmup_epochs=1.5 must be"),
        (lambda: CrossEntropy()(torch.zeros(1, 2), torch.zeros(1).long(), reduction="sum"), "reduction=sum must be"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_schedule_warms_up_with_cross_entropy():
    loss = PiecewiseZeroLoss()
    schedule = LossSchedule(loss, warmup_epochs=2)
    assert [type(schedule.at(epoch)) for epoch in range(4)] == [CrossEntropy] * 2 + [PiecewiseZeroLoss] * 2
    assert [(epoch, str(part)) for epoch, part in schedule.phases()] == [
        (0, "CrossEntropy()"),
        (2, "PiecewiseZeroLoss(cutoff=0.1)"),
    ]
    assert LossSchedule(loss).phases() == [(0, loss)]


@pytest.mark.parametrize("loss", ALL, ids=str)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, -100, 1]), r"target must be between 0 and 3; it is between -100 and 1"),
        (torch.tensor([0, 4, 1]), r"target must be between 0 and 3; it is between 0 and 4"),
        (torch.tensor([0.0, 1.0, 2.0]), r"target must be whole numbers \[N\].*; it is torch\.float32 \[3\]"),
        (torch.full((3, 4), 0.25), r"target must be whole numbers \[N\].*; it is torch\.float32 \[3, 4\]"),
        (torch.ones(3, 4).long(), r"it is torch\.int64 \[3, 4\] with logits \[3, 4\]"),
        (torch.tensor([True, False, True]), r"it is torch\.bool"),
        (torch.ones(2).long(), r"it is torch\.int64 \[2\] with logits \[3, 4\]"),
    ],
)
def test_targets_that_are_no_classes_are_refused(loss, target, message):
    for reduction in ("mean", "none"):
        with pytest.raises(InputError, match=message):
            loss(torch.zeros(3, 4), target, reduction=reduction)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_targets_are_whole_numbers_of_any_kind(kind):
    logits, target = torch.randn(3, 4), torch.tensor([3, 0, 1], dtype=kind)
    torch.testing.assert_close(CrossEntropy()(logits, target), F.cross_entropy(logits, target.long()))


def test_gradients_are_those_of_torch_to_the_bit():
    logits = (100 * torch.randn(50, 7)).requires_grad_()
    target = torch.arange(50) % 7
    (found,) = torch.autograd.grad(CrossEntropy()(logits, target), logits)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, target, reduction="none").mean(), logits)
    assert torch.equal(found, expected)


def test_gradients_of_each_sample_come_from_vmap():
    logits, target = torch.randn(5, 4), torch.tensor([3, 0, 1, 2, 0])
    each = torch.func.vmap(torch.func.grad(lambda z, y: CrossEntropy()(z[None], y[None])))(logits, target)
    torch.testing.assert_close(each, logits.softmax(1) - F.one_hot(target, 4))


def test_where_one_cannot_look_a_target_that_is_no_class_gives_no_loss():
    losses = torch.func.vmap(lambda z, y: CrossEntropy()(z[None], y[None]))(
        torch.randn(3, 4), torch.tensor([1, -100, 4])
    )
    assert losses.isnan().tolist() == [False, True, True]
