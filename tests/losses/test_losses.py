import math

import pytest
import torch
import torch.nn.functional as F

from igb import experiment
from igb._checks import InputError
from igb._paths import config_folder
from igb.losses import (
    AsymmetricGeneralizedCrossEntropy,
    BlurryLoss,
    CrossEntropy,
    FocalLoss,
    GeneralizedCrossEntropy,
    HuberisedCrossEntropy,
    LabelSmoothing,
    LossSchedule,
    NormalizedCrossEntropy,
    NormalizedNegativeCrossEntropy,
    PiecewiseZeroLoss,
    ReverseCrossEntropy,
    SmoothPiecewiseZeroLoss,
    SoftBootstrap,
    SumLoss,
    TaylorCrossEntropy,
    curve_points,
    loss_curve,
    loss_curves,
)
from igb.losses.base import weights
from igb.losses.curve import LINES
from igb.statistics import measure

OF_TRUE_CLASS = [
    CrossEntropy(), BlurryLoss(), BlurryLoss(detach_weight=True), PiecewiseZeroLoss(), PiecewiseZeroLoss(1.0),
    GeneralizedCrossEntropy(), GeneralizedCrossEntropy(1.0), HuberisedCrossEntropy(), SmoothPiecewiseZeroLoss(),
    SmoothPiecewiseZeroLoss(0.3, 0.5), TaylorCrossEntropy(), TaylorCrossEntropy(6), FocalLoss(), FocalLoss(0.5),
    FocalLoss(detach_weight=True), ReverseCrossEntropy(), AsymmetricGeneralizedCrossEntropy(),
    AsymmetricGeneralizedCrossEntropy(1.0, 2.0), SumLoss(CrossEntropy(), ReverseCrossEntropy(), 0.1, 1.0),
]  # fmt: skip
OF_ALL_CLASSES = [
    NormalizedCrossEntropy(), NormalizedNegativeCrossEntropy(), LabelSmoothing(), SoftBootstrap(),
    SumLoss(NormalizedCrossEntropy(), ReverseCrossEntropy()),
    SumLoss(NormalizedCrossEntropy(), NormalizedNegativeCrossEntropy(), 5.0, 5.0),
]  # fmt: skip
ALL = [*OF_TRUE_CLASS, *OF_ALL_CLASSES]
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


OPTIONS = sorted(file.stem for file in (config_folder() / "loss").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_gradient_of_every_option_is_that_of_its_value(option):
    """By central differences in float64, at random and at biased logits, on either side of any kink; one is constant.

    The factor that `bl_detached` holds constant is so for the gradient alone, which is that of `gce`.
    """
    loss = experiment.build(experiment.compose("data=digits", "model=mlp", f"loss={option}")).loss_schedule.loss
    if option == "bl_detached":
        loss, _ = GeneralizedCrossEntropy(loss.gamma), loss
        detached = BlurryLoss(loss.q, detach_weight=True)
        for scale in (1.0, 8.0):
            logits, target = samples(50, 5, scale)
            torch.testing.assert_close(
                value_and_gradient(detached, logits, target)[1], value_and_gradient(loss, logits, target)[1]
            )
    for scale in (1.0, 8.0):
        logits, target = samples(50, 5, scale)
        steps = 1e-6 * torch.eye(5, dtype=torch.float64)
        gradient = value_and_gradient(loss, logits, target)[1]
        differences = torch.stack(
            [
                (loss(logits + h, target, reduction="none") - loss(logits - h, target, reduction="none")) / 2e-6
                for h in steps
            ],
            dim=1,
        )
        torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-7)


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
    _, gradient, _ = loss_curve(BlurryLoss(GAMMA), torch.tensor([threshold * 0.99, threshold * 1.01]))
    assert gradient[0] > 0 > gradient[1]
    _, gradient, _ = loss_curve(BlurryLoss(GAMMA, detach_weight=True), torch.tensor([threshold * 0.99]))
    assert gradient[0] < 0


@pytest.mark.parametrize(("loss", "formula", "slope"), CLOSED_FORMS, ids=[str(loss) for loss, *_ in CLOSED_FORMS])
def test_loss_curve_is_the_closed_form(loss, formula, slope):
    probabilities = torch.logspace(-6, -0.01, 57, dtype=torch.float64)
    columns = [column.tolist() for column in (probabilities, *loss_curve(loss, probabilities))]
    for p, value, gradient, weight in zip(*columns, strict=True):
        assert value == pytest.approx(formula(p), rel=1e-9)
        assert gradient == pytest.approx(slope(p) * (1 - p), rel=1e-9)
        assert weight == pytest.approx(-slope(p), rel=1e-9)


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
    _, gradients, _ = loss_curve(loss, points)
    changes = gradients[:-1].sign() != gradients[1:].sign()
    changes[-1] = False  # to certainty, where no gradient is left
    low, high = points[:-1][changes], points[1:][changes]
    assert low.tolist() == pytest.approx(places, rel=1e-9)
    assert high.tolist() == pytest.approx(places, rel=1e-9)


def test_loss_curve_ends_at_certainty():
    values, gradients, weight = loss_curve(CrossEntropy(), torch.tensor([1.0]))
    assert weight.item() == 1
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
        (lambda: GeneralizedCrossEntropy(0), "q=0 must be a finite number from 1e-06 to 1"),
        (lambda: GeneralizedCrossEntropy(1.1), "q=1.1 must be"),
        (lambda: HuberisedCrossEntropy(0.9), "tau=0.9 must be a finite number of at least 1"),
        (lambda: SmoothPiecewiseZeroLoss(0), "cutoff=0 must be a finite number from 1e-30 to 1"),
        (lambda: SmoothPiecewiseZeroLoss(sharpness=0), "sharpness=0 must be a finite number of at least 0.001"),
        (lambda: TaylorCrossEntropy(0), "t=0 must be a whole number of at least 1"),
        (lambda: FocalLoss(-1), "gamma=-1 must be a finite number of at least 0"),
        (lambda: FocalLoss(detach_weight=1), "detach_weight=1 must be true or false"),
        (lambda: ReverseCrossEntropy(-1), "A=-1 must be a finite number of at least 0"),
        (lambda: AsymmetricGeneralizedCrossEntropy(a=0), "a=0 must be a finite number of at least 1e-06"),
        (lambda: AsymmetricGeneralizedCrossEntropy(q=0), "q=0 must be a finite number of at least 1e-06"),
        (lambda: NormalizedNegativeCrossEntropy(0.5), "p_min=0.5 must be a finite number from 1e-30 to 0.1"),
        (lambda: LabelSmoothing(1.5), "epsilon=1.5 must be a finite number from 0 to 1"),
        (lambda: SoftBootstrap(-0.5), "beta=-0.5 must be a finite number from 0 to 1"),
        (lambda: SumLoss(CrossEntropy(), CrossEntropy(), alpha=-1), "alpha=-1 must be a finite number of at least 0"),
        (lambda: SumLoss(CrossEntropy(), CrossEntropy(), beta=-1), "beta=-1 must be"),
        (lambda: SumLoss(CrossEntropy(), 3), "second must be a loss that is an igb.losses.ProbabilityLoss; it is 3"),
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


A = -math.log(1e-4)
EXTREMES = [1e-30, 1e-8, 1e-4, 0.01, 0.5, 1.0]
# p_y -> loss, and its weight w = -dloss / dlog p_y, as the papers write them. 1 - p is exact for these p.
OF_PAPERS = [
    (CrossEntropy(), lambda p: -math.log(p), lambda p: 1.0),
    (GeneralizedCrossEntropy(0.7), lambda p: (1 - p**0.7) / 0.7, lambda p: p**0.7),
    (GeneralizedCrossEntropy(1.0), lambda p: 1 - p, lambda p: p),
    (HuberisedCrossEntropy(10), lambda p: -math.log(p) if p > 0.1 else -10 * p + math.log(10) + 1,
     lambda p: min(1, 10 * p)),
    (SmoothPiecewiseZeroLoss(0.1, 4), lambda p: (math.log1p(0.1**-4) - math.log1p((p / 0.1) ** 4)) / 4,
     lambda p: p**4 / (p**4 + 0.1**4)),
    (SmoothPiecewiseZeroLoss(0.2, 1), lambda p: -math.log(p + 0.2) + math.log(1.2), lambda p: p / (p + 0.2)),
    (TaylorCrossEntropy(2), lambda p: (1 - p) + (1 - p) ** 2 / 2, lambda p: p * (1 + (1 - p))),
    (TaylorCrossEntropy(3), lambda p: (1 - p) + (1 - p) ** 2 / 2 + (1 - p) ** 3 / 3,
     lambda p: p * (1 + (1 - p) + (1 - p) ** 2)),
    (FocalLoss(2), lambda p: -((1 - p) ** 2) * math.log(p), lambda p: (1 - p) ** 2 - 2 * (1 - p) * p * math.log(p)),
    (FocalLoss(2, detach_weight=True), lambda p: -((1 - p) ** 2) * math.log(p), lambda p: (1 - p) ** 2),
    (FocalLoss(1), lambda p: -(1 - p) * math.log(p), lambda p: (1 - p) - p * math.log(p)),
    (ReverseCrossEntropy(), lambda p: A * (1 - p), lambda p: A * p),
    (SumLoss(CrossEntropy(), ReverseCrossEntropy(), 0.1, 1), lambda p: -0.1 * math.log(p) + A * (1 - p),
     lambda p: 0.1 + A * p),
    (AsymmetricGeneralizedCrossEntropy(0.6, 0.6), lambda p: (1.6**0.6 - (0.6 + p) ** 0.6) / 0.6,
     lambda p: p * (0.6 + p) ** -0.4),
    (AsymmetricGeneralizedCrossEntropy(1, 2), lambda p: (4 - (1 + p) ** 2) / 2, lambda p: p * (1 + p)),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize(("loss", "formula", "weight"), OF_PAPERS, ids=[str(loss) for loss, *_ in OF_PAPERS])
def test_losses_are_those_of_the_papers_also_where_a_biased_network_begins(loss, formula, weight, dtype, tolerance):
    for p in EXTREMES:
        log_p = torch.tensor([math.log(p)], dtype=dtype, requires_grad=True)
        found = torch.stack([log_p[0], torch.tensor(-math.inf if p == 1 else math.log1p(-p), dtype=dtype)])[None]
        value = loss.of_log_probabilities(found, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(value.sum(), log_p)
        assert value.item() == pytest.approx(formula(p), rel=tolerance, abs=1e-15 if dtype == torch.float64 else 1e-7)
        assert -gradient.item() == pytest.approx(weight(p), rel=tolerance, abs=torch.finfo(dtype).tiny)


def test_blurry_loss_with_its_factor_held_constant_has_the_gradient_of_generalized_cross_entropy_to_the_bit():
    logits, target = samples(scale=30.0)
    for gamma in (0.1, 0.7, 1.0):
        _, ours = value_and_gradient(BlurryLoss(gamma, detach_weight=True), logits, target)
        _, theirs = value_and_gradient(GeneralizedCrossEntropy(gamma), logits, target)
        assert torch.equal(ours, theirs)
    _, as_written = value_and_gradient(BlurryLoss(0.7), logits, target)
    assert not torch.allclose(ours, as_written)


def test_a_sharp_step_has_the_gradient_of_piecewise_zero_loss():
    logits, target = samples()
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]
    away = ((p / 0.1).log().abs() > 0.01)[:, None]
    _, smooth = value_and_gradient(SmoothPiecewiseZeroLoss(0.1, 1e5), logits, target)
    _, sharp = value_and_gradient(PiecewiseZeroLoss(0.1), logits, target)
    assert away.sum() > 300
    torch.testing.assert_close(smooth * away, sharp * away)


@pytest.mark.parametrize("same", [TaylorCrossEntropy(1), GeneralizedCrossEntropy(1), HuberisedCrossEntropy(1),
                                  ReverseCrossEntropy(1)], ids=str)  # fmt: skip
def test_several_losses_are_the_mean_absolute_error_at_one_end(same):
    logits, target = samples()
    for found, expected in zip(
        value_and_gradient(same, logits, target),
        value_and_gradient(lambda z, y, reduction: 1 - z.softmax(1).gather(1, y[:, None])[:, 0], logits, target),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "same", [FocalLoss(0), FocalLoss(0, detach_weight=True), GeneralizedCrossEntropy(1e-6)], ids=str
)
def test_several_losses_are_cross_entropy_at_the_other(same):
    logits, target = samples(scale=1.0)
    for found, expected in zip(
        value_and_gradient(same, logits, target), value_and_gradient(CrossEntropy(), logits, target), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def naive(loss, logits, target):
    """A loss of all classes as its paper writes it, from the probabilities themselves."""
    p = logits.softmax(1)
    q = F.one_hot(target, logits.shape[1]).to(p.dtype)
    of_true = (p * q).sum(1)
    if isinstance(loss, NormalizedCrossEntropy):
        return -(q * p.log()).sum(1) / -p.log().sum(1)
    if isinstance(loss, NormalizedNegativeCrossEntropy):
        terms = (1 + p / 1e-7).log()
        return 1 - (q * terms).sum(1) / terms.sum(1)
    if isinstance(loss, LabelSmoothing):
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=0.1)
    if isinstance(loss, SoftBootstrap):
        return -((0.95 * q + 0.05 * p) * p.log()).sum(1)
    if isinstance(loss, ReverseCrossEntropy):
        return -(p * q.clamp(min=1e-4).log()).sum(1)
    if isinstance(loss, CrossEntropy):
        return -of_true.log()
    return loss.alpha * naive(loss.first, logits, target) + loss.beta * naive(loss.second, logits, target)


@pytest.mark.parametrize("loss", [*OF_ALL_CLASSES, OF_TRUE_CLASS[-1]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 6.0, 15.0])
def test_losses_of_all_classes_are_those_of_the_papers(loss, scale):
    logits, target = samples(scale=scale)
    values, gradient = value_and_gradient(loss, logits, target)
    leaf = logits.clone().requires_grad_()
    expected = naive(loss, leaf, target)
    expected.sum().backward()
    torch.testing.assert_close(values, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-6, atol=1e-12)


def test_negative_cross_entropy_is_that_of_its_authors_for_probabilities_above_theirs():
    logits, target = samples(scale=1.0)
    p = logits.softmax(1).clamp(min=1e-7)
    terms = -math.log(1e-7) + p.log()
    expected = 1 - terms.gather(1, target[:, None])[:, 0] / terms.sum(1)
    values = NormalizedNegativeCrossEntropy()(logits, target, reduction="none")
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_every_loss_pulls_somewhere_where_nearly_nothing_is_left_of_the_true_class(loss):
    """Where public code clamps: all but Piecewise-zero loss have a gradient, and none is NaN."""
    logits = torch.zeros(1, 10, dtype=torch.float64)
    logits[0, 1] = 40.0
    for target in (0, 1):
        values, gradient = value_and_gradient(loss, logits, torch.tensor([target]))
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        if target == 0:
            assert bool((gradient[0, 0] != 0).item()) is not isinstance(loss, PiecewiseZeroLoss)


@pytest.mark.parametrize("loss", ALL, ids=str)
@pytest.mark.parametrize("gap", [20.0, 150.0, 1e4])
def test_the_weight_is_a_number_where_nothing_is_left_of_the_other_classes(loss, gap):
    logits = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0]])
    log_p = logits.log_softmax(1).requires_grad_()
    target = torch.tensor([0, 0])
    (by_log_p,) = torch.autograd.grad(loss.of_log_probabilities(log_p, target).sum(), log_p)
    assert weights(loss, log_p.detach(), by_log_p, target).isfinite().all()


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_the_weight_is_the_gradient_of_the_true_logit_over_what_is_left(loss):
    logits, target = samples(scale=2.0)
    log_p = logits.log_softmax(1).requires_grad_()
    (by_log_p,) = torch.autograd.grad(loss.of_log_probabilities(log_p, target).sum(), log_p)
    found = weights(loss, log_p.detach(), by_log_p, target)
    _, gradient = value_and_gradient(loss, logits, target)
    p = logits.softmax(1)
    expected = -gradient.gather(1, target[:, None])[:, 0] / (1 - p.gather(1, target[:, None])[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("loss", OF_ALL_CLASSES, ids=str)
def test_a_loss_of_all_classes_is_drawn_along_two_lines(loss, line):
    probabilities = torch.tensor([1e-6, 0.01, 0.3, 0.9], dtype=torch.float64)
    values, gradient, weight = loss_curve(loss, probabilities, 5, line)
    for index, p in enumerate(probabilities.tolist()):
        rest = [(1 - p) / 4] * 4 if line == LINES[0] else [1 - p, *[(1 - p) * math.exp(-50)] * 3]
        logits = torch.tensor([[p, *rest]], dtype=torch.float64).log()
        value, by_logit = value_and_gradient(loss, logits, torch.tensor([0]))
        assert values[index].item() == pytest.approx(value.item(), rel=1e-9)
        assert gradient[index].item() == pytest.approx(by_logit[0, 0].item(), rel=1e-6, abs=1e-12)
        assert weight[index].item() == pytest.approx(-by_logit[0, 0].item() / (1 - p), rel=1e-6, abs=1e-12)


def test_the_curves_of_a_loss_are_named():
    assert [name for name, _ in loss_curves(LabelSmoothing(), 10)] == [
        "LabelSmoothing(epsilon=0.1), others alike", "LabelSmoothing(epsilon=0.1), one other class",
    ]  # fmt: skip
    assert [name for name, _ in loss_curves(LabelSmoothing(), 2)] == ["LabelSmoothing(epsilon=0.1), others alike"]
    sce = SumLoss(CrossEntropy(), ReverseCrossEntropy(), 0.1, 1)
    ((name, columns),) = loss_curves(sce, 10)
    assert name == "0.1 CrossEntropy() + 1 ReverseCrossEntropy(A=9.21)"
    assert [len(column) for column in columns] == [len(columns[0])] * 4


def test_a_ramp_goes_from_cross_entropy_to_the_loss_linearly_in_the_weight():
    loss = GeneralizedCrossEntropy(0.7)
    schedule = LossSchedule(loss, warmup_epochs=1, ramp_epochs=3)
    assert [epoch for epoch, _ in schedule.phases()] == [0, 1, 2, 3, 4]
    p = torch.tensor([1e-3, 0.2, 0.9], dtype=torch.float64)
    for epoch, part in ((0, 0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1), (9, 1)):
        weight = loss_curve(schedule.at(epoch), p)[2]
        torch.testing.assert_close(weight, (1 - part) + part * p**0.7)
    assert schedule.at(2) is schedule.at(2)
    assert schedule.at(4) is loss
    assert LossSchedule(loss, ramp_epochs=1).phases()[0][0] == 0
    assert set(LossSchedule(loss, ramp_epochs=2).state_dict()) == set(LossSchedule(loss).state_dict())


class OfEachSample(torch.nn.Module):
    """A loss that is none of igb's, but called as they are."""

    def forward(self, logits, target, reduction="mean"):
        return F.cross_entropy(logits, target, reduction=reduction)


def test_a_loss_that_does_not_give_that_of_each_sample_is_refused():
    must = r'=CrossEntropyLoss must be called as loss\(logits, target, reduction="none"\)'
    with pytest.raises(InputError, match=f"^_target_{must}"):
        LossSchedule(torch.nn.CrossEntropyLoss())
    with pytest.raises(InputError, match=f"^loss{must}"):
        measure(torch.nn.Linear(3, 2), torch.zeros(4, 3), [0, 1, 0, 1], loss=torch.nn.CrossEntropyLoss())
    assert LossSchedule(OfEachSample()).phases()[0][0] == 0


def test_a_ramp_needs_a_loss_of_igbs():
    with pytest.raises(InputError, match=r"ramp_epochs=1 needs a loss that is an igb\.losses\.ProbabilityLoss"):
        LossSchedule(OfEachSample(), ramp_epochs=1)
    with pytest.raises(InputError, match="ramp_epochs=-1 must be a whole number of at least 0"):
        LossSchedule(CrossEntropy(), ramp_epochs=-1)
