"""The paired bootstrap: the known cases, and how often its interval holds the truth."""

import math

import numpy as np
import pytest

from seqarch.stats import bootstrap
from seqarch.stats.bootstrap import paired_bootstrap


def test_the_mean_is_the_difference_over_all_bytes():
    nats, other, sizes = (
        np.array([3.0, 50.0, 9.0]),
        np.array([2.0, 54.0, 9.5]),
        np.array([1.0, 20.0, 4.0]),
    )
    found = paired_bootstrap((nats - other) / sizes, sizes)
    assert found.mean == pytest.approx(nats.sum() / sizes.sum() - other.sum() / sizes.sum())
    assert found.low < found.mean < found.high


def test_the_interval_of_a_mean_is_the_normal_one():
    """Of many documents of one size: mean +- 1.96 s / sqrt(n)."""
    differences = np.random.default_rng(1).normal(0.3, 2.0, 500)
    found = paired_bootstrap(differences, np.full(500, 7.0))
    half = 1.96 * differences.std() / math.sqrt(500)
    np.testing.assert_allclose(
        [found.low, found.high], [found.mean - half, found.mean + half], atol=0.06 * half
    )


def test_two_documents_have_three_possible_means():
    """Both the first: 1/4; both the second: 1/4; so the interval's ends are theirs."""
    assert paired_bootstrap([1.0, 3.0], [1.0, 3.0]) == (2.5, 1.0, 3.0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Documents of very different sizes; 95 % of 400 intervals, give or take three standard errors
    and the small sample.
    """
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        sizes = rng.lognormal(5, 1, 80)
        found = paired_bootstrap(rng.normal(0.1, 0.3, 80), sizes, resamples=400)
        held += found.low <= 0.1 <= found.high
    assert 0.88 < held / 400 < 0.98


def test_of_three_seeds_and_four_works_they_hold_it_less_often():
    """As docs/results.md says of configs/compare.py:long: about four times in five."""
    rng, held = np.random.default_rng(4), 0
    for _ in range(400):
        differences = (
            rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.01, (1, 4)) + rng.normal(0, 0.005, (3, 4))
        )
        found = paired_bootstrap(differences, np.ones(4), resamples=400)
        held += found.low <= 0 <= found.high
    assert 0.74 < held / 400 < 0.86


def test_the_same_seed_gives_the_same_interval_in_any_pieces(monkeypatch):
    differences, sizes = np.random.default_rng(3).normal(size=(2, 10))
    sizes = 1 + sizes**2
    whole = paired_bootstrap(differences, sizes, resamples=100)
    assert (
        whole
        == paired_bootstrap(differences, sizes, resamples=100)
        != paired_bootstrap(differences, sizes, seed=1)
    )
    monkeypatch.setattr(bootstrap, "BLOCK", 70)
    assert paired_bootstrap(differences, sizes, resamples=100) == pytest.approx(whole)


def test_one_document_bounds_nothing():
    assert paired_bootstrap([0.5], [10]) == (0.5, -math.inf, math.inf)


def test_seeds_are_drawn_too():
    """Documents that agree say nothing against a difference that the seeds don't agree on."""
    agreed = paired_bootstrap([[0.2, 0.2, 0.2]], [1, 1, 1])
    assert agreed == pytest.approx((0.2, 0.2, 0.2))
    disputed = paired_bootstrap([[0.2, 0.2, 0.2], [-0.1, -0.1, -0.1]], [1, 1, 1])
    assert disputed == pytest.approx((0.05, -0.1, 0.2))
