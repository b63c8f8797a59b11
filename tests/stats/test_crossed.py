"""The crossed t interval: by hand, as min F', and how often it holds the truth."""

import numpy as np
import pytest
from scipy import stats

from seqarch.stats.bootstrap import paired_bootstrap
from seqarch.stats.crossed import SEEDS, WORKS, crossed_t, enough


def simulated(shape, of_seeds, of_works, of_cells, sets=4000, seed=0):
    """Differences with mean zero: deviations over seeds, over works, and of each cell."""
    rng, (seeds, works) = np.random.default_rng(seed), shape
    found = of_seeds * rng.normal(size=(sets, seeds, 1))
    found = found + of_works * rng.normal(size=(sets, 1, works))
    return found + of_cells * rng.normal(size=(sets, seeds, works))


def coverage(differences, weights):
    interval = crossed_t(differences, weights).interval
    return ((interval.low <= 0) & (0 <= interval.high)).mean()


def test_the_interval_by_hand():
    """Seeds: means 1 and 3, variance 2. Works: means 1, 2 and 3, variance 1. v = 2/2 + 1/3."""
    differences = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    mean, low, high = crossed_t(differences, np.ones(3)).interval
    half = 12.7062 * np.sqrt(4 / 3)  # the 97.5 % quantile at one degree of freedom
    assert (mean, low, high) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-5)


def test_its_statistic_is_min_f():
    """F1 F2 / (F1 + F2) of the tests over seeds and over works (Clark 1973)."""
    differences = simulated((5, 12), 1.0, 0.5, 1.0, sets=1)[0] + 1.0
    f1, f2 = (stats.ttest_1samp(differences.mean(axis), 0).statistic ** 2 for axis in (1, 0))
    least = f1 * f2 / (f1 + f2)
    assert crossed_t(differences, np.ones(12)).p == pytest.approx(stats.f.sf(least, 1, 4))


def test_the_p_value_and_the_interval_agree():
    sets = simulated((5, 12), 1.0, 1.0, 1.0, sets=500) + 1.0
    interval, p = crossed_t(sets, np.arange(1.0, 13.0))
    assert ((interval.low > 0) | (interval.high < 0)).tolist() == (p < 0.05).tolist()
    assert 0.1 < (p < 0.05).mean() < 0.9


def test_it_is_paired_and_weighted():
    """What all cells share cancels; the mean is that over all bytes."""
    rng, sizes = np.random.default_rng(5), np.array([1.0, 10.0, 4.0])
    by_work, better = 5.0 * rng.normal(size=3), rng.normal(size=(4, 3))
    found = crossed_t((by_work + better + 0.1) - (by_work + better), sizes)
    assert found.interval == pytest.approx((0.1, 0.1, 0.1)) and found.p < 1e-9
    assert crossed_t(better, sizes).interval.mean == pytest.approx(
        (better @ sizes).mean() / sizes.sum()
    )
    assert crossed_t(np.zeros((3, 3)), sizes) == ((0, 0, 0), 1)


@pytest.mark.parametrize(
    "deviations", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.2, 1, 1), (1, 0.3, 0.5)]
)
@pytest.mark.parametrize("shape", [(SEEDS, WORKS), (10, 12)])
def test_it_holds_the_truth_at_least_as_often_as_it_says(shape, deviations):
    """Whichever of seeds, works and cells vary: 95 % or more, give or take three errors."""
    differences = simulated(shape, *deviations)
    sizes = np.random.default_rng(1).lognormal(5, 0.5, shape[1])
    assert coverage(differences, np.ones(shape[1])) > 0.94
    assert coverage(differences, sizes) > 0.935


def test_it_is_exact_where_only_seeds_vary():
    assert 0.94 < coverage(simulated((SEEDS, WORKS), 1, 0, 0), np.ones(WORKS)) < 0.96


def test_of_five_seeds_and_four_works_the_bootstrap_holds_it_less_often():
    differences = simulated((5, 4), 0.02, 0.01, 0.005, sets=400)
    resampled = [paired_bootstrap(each, np.ones(4), resamples=300) for each in differences]
    held = np.mean([each.low <= 0 <= each.high for each in resampled])
    assert 0.8 < held < 0.9 < 0.95 < coverage(differences, np.ones(4))


def test_reports_ask_for_five_seeds_and_twelve_works():
    assert (SEEDS, WORKS) == (5, 12)
    assert enough(5, 12) and not enough(4, 12) and not enough(5, 11)
