"""Guess fractions in closed form, by integrals and by samples."""

import math

import numpy as np
import pytest
from scipy import stats

from igb._checks import InputError
from igb.theory import guesses
from igb.theory.guesses import _bivariate

RATIOS = [0.05, 1.0, 10.0, 1e4]


@pytest.mark.parametrize("classes", [3, 10, 25])
@pytest.mark.parametrize("ratio", [0.0, *RATIOS])
def test_integrals_are_the_means_of_samples(ratio, classes):
    found = guesses(ratio, classes)
    sample = found.sample(4000)
    maxima, together = sample.max(axis=1), (sample**2).sum(axis=1)
    error = 4 / math.sqrt(len(sample))
    assert found.mean_dominance == pytest.approx(maxima.mean(), abs=error * maxima.std() + 1e-9)
    assert found.agreement == pytest.approx(together.mean(), abs=error * together.std() + 1e-9)
    np.testing.assert_allclose(sample.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(sample.mean(axis=0), 1 / classes, atol=error / 2)


def test_a_sample_is_what_inputs_choose():
    """Guess fractions of one network against those of a million inputs."""
    found = guesses(2.0, 4).sample(1, seed=3)[0]
    means = math.sqrt(2.0) * np.random.default_rng(3).standard_normal(4)
    chosen = (means + np.random.default_rng(0).standard_normal((1_000_000, 4))).argmax(axis=1)
    np.testing.assert_allclose(found, np.bincount(chosen, minlength=4) / 1e6, atol=2e-3)


@pytest.mark.parametrize("ratio", RATIOS)
def test_two_classes_have_closed_forms(ratio):
    found = guesses(ratio, 2)
    sample = found.sample(20_000)[:, 0]
    assert found.mean_dominance == pytest.approx(np.maximum(sample, 1 - sample).mean(), abs=0.01)
    assert found.agreement == pytest.approx((sample**2 + (1 - sample) ** 2).mean(), abs=0.01)
    for threshold in (0.5, 0.6, 0.9, 0.99):
        measured = (np.maximum(sample, 1 - sample) > threshold).mean()
        assert found.probability_above(threshold) == pytest.approx(measured, abs=0.015)
    shares = np.linspace(0.005, 0.995, 100)
    histogram = np.histogram(sample, np.linspace(0, 1, 101))[0] / len(sample)
    if ratio <= 1:
        np.testing.assert_allclose(found.density(shares) / 100, histogram, atol=0.005)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0, 5.0, 100.0])
def test_the_density_is_the_derivative_of_the_distribution(ratio):
    found = guesses(ratio, 2)
    shares = np.linspace(0.002, 0.998, 2001)
    below = stats.norm.cdf(stats.norm.ppf(shares) / math.sqrt(ratio))  # P(G_0 < g)
    np.testing.assert_allclose(found.density(shares)[1:-1], np.gradient(below, shares)[1:-1], rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(
        found.density(shares)[100:-100], np.gradient(below, shares)[100:-100], rtol=1e-4, atol=1e-6
    )
    above = [found.probability_above(share) for share in shares[1001:]]
    np.testing.assert_allclose(above, 2 * (1 - below[1001:]), rtol=1e-9, atol=1e-14)
    assert (found.density(np.array([0.5])) * math.sqrt(ratio)).item() == pytest.approx(1)


def test_the_ends_are_no_bias_and_one_class():
    assert guesses(0, 5).mean_dominance == pytest.approx(0.2)
    assert guesses(0, 5).agreement == pytest.approx(0.2)
    assert (guesses(0, 5).probability_above(0.19), guesses(0, 5).probability_above(0.3)) == (1, 0)
    certain = guesses(math.inf, 5)
    assert (certain.mean_dominance, certain.agreement, certain.probability_above(0.99)) == (1, 1, 1)
    assert sorted(certain.sample(1)[0].tolist()) == [0, 0, 0, 0, 1]
    assert guesses(1e12, 5).mean_dominance == pytest.approx(1, abs=1e-5)


def test_finitely_many_images_are_counted():
    exact, counted = (guesses(1.0, 3).sample(2000, images=images, seed=1) for images in (None, 50))
    np.testing.assert_allclose(counted * 50, np.round(counted * 50), atol=1e-9)
    spread = exact * (1 - exact) / 50
    assert ((counted - exact) ** 2).mean() == pytest.approx(spread.mean(), rel=0.1)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.3, 0.95])
@pytest.mark.parametrize(("h", "k"), [(0.5, 1.2), (-0.5, 1.2), (0.5, -2.0), (-0.1, -0.2), (1e-300, 0.7)])
def test_the_bivariate_normal_is_that_of_scipy(h, k, correlation):
    root = math.sqrt(1 - correlation**2)
    found = _bivariate(
        *(np.array(one) for one in (h, k, (k - correlation * h) / (h * root), (h - correlation * k) / (k * root)))
    )
    expected = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([h, k])
    assert found.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guesses(-1, 2), "drift_ratio=-1 must be a finite number of at least 0"),
        (lambda: guesses(math.nan, 2), "drift_ratio=nan must be"),
        (lambda: guesses(1, 1), "classes=1 must be a whole number of at least 2"),
        (lambda: guesses(1, 3).density(np.array([0.5])), "classes=3 must be 2 for a density"),
        (lambda: guesses(0, 2).density(np.array([0.5])), "drift_ratio=0.0 must be positive and finite for a density"),
        (lambda: guesses(1, 2).probability_above(1.5), "threshold=1.5 must be a finite number from 0 to 1"),
        (lambda: guesses(1, 2).density(np.array([0.5, 1.0])), "share must be between 0 and 1"),
        (lambda: guesses(np.array([1.0, 2.0]), 2), "drift_ratio=.* must be"),
        (lambda: guesses(1, 2).sample(0), "count=0 must be a whole number of at least 1"),
        (lambda: guesses(1, 2).sample(3, images=0), "images=0 must be"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_network_gives_more_than_all():
    assert guesses(1e16, 1000).mean_dominance == pytest.approx(1, abs=1e-6)
    assert guesses(1e16, 1000).mean_dominance <= 1
    assert guesses(math.inf, 2).probability_above(1.0) == 0
    assert guesses(np.float32(2), np.int64(3)).mean_dominance == guesses(2.0, 3).mean_dominance
