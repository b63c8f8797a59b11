"""Fit rates: published intervals, and the exact test by enumeration."""

import itertools
import math

import numpy as np
import pytest

from seqarch.stats.fit_rate import (
    VERDICT_SEEDS,
    FitRate,
    fisher_exact,
    fit_rate,
    fits,
    median_score,
)


def rate(k, n):
    return fit_rate([1.0] * k + [0.5] * (n - k), 0.99)


def test_a_run_fits_from_the_threshold_on_and_a_diverged_one_does_not():
    found = fits([0.99, 0.98999, 1.0, None, math.nan], 0.99)
    assert found.tolist() == [True, False, True, False, False]
    assert fit_rate([1.0, None], 0.99)[:2] == (1, 2) and fit_rate([1.0, None], 0.99).rate == 0.5


def test_a_diverged_run_is_below_the_median():
    assert median_score([None, 0.5, 0.6]) == 0.5 and median_score([0.4, 0.5]) == 0.45
    assert median_score([None, 0.5]) == median_score([None, math.nan]) == -math.inf


@pytest.mark.parametrize(
    "k, n, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, "Two-sided confidence intervals", table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(k, n, low, high):
    found = rate(k, n)
    assert (found.fits, found.n, found.rate) == (k, n, k / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_holds_the_rates_that_are_not_rejected():
    found, n = rate(3, 12), 12
    for end in (found.low, found.high):
        z = abs(3 / n - end) / math.sqrt(end * (1 - end) / n)
        assert z == pytest.approx(1.959964, abs=1e-5)


def test_a_verdict_needs_ten_seeds():
    assert VERDICT_SEEDS == 10
    assert not rate(9, 9).has_verdict and rate(0, 10).has_verdict


def test_fishers_test_is_the_enumeration_of_all_assignments():
    """Of seven runs, of which some fit, every choice of the four of the first member."""
    for fit in range(8):
        runs = [1] * fit + [0] * (7 - fit)
        counts = [sum(each) for each in itertools.combinations(runs, 4)]
        share = {count: counts.count(count) / len(counts) for count in set(counts)}
        for count, observed in share.items():
            expected = sum(each for each in share.values() if each <= observed * (1 + 1e-9))
            found = fisher_exact(rate(count, 4), rate(fit - count, 3))
            assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "one, other, p",
    [((3, 4), (1, 4), 0.4857143), ((10, 10), (0, 10), 2 / 184756), ((10, 10), (10, 10), 1.0)],
)
def test_fishers_test_of_known_counts(one, other, p):
    """The first is Fisher's lady, who names three of four cups of each kind."""
    found = fisher_exact(FitRate(*one, 0, 1), FitRate(*other, 0, 1))
    assert found == pytest.approx(p, rel=1e-6)


def test_fishers_test_rejects_equal_rates_at_most_as_often_as_it_says():
    p = np.array([[fisher_exact(rate(k, 10), rate(m, 10)) for m in range(11)] for k in range(11)])
    for probability in (0.05, 0.3, 0.5, 0.8):
        law = [math.comb(10, k) * probability**k * (1 - probability) ** (10 - k) for k in range(11)]
        assert np.outer(law, law)[p <= 0.05].sum() <= 0.05
