"""Frontiers: which runs count, the smallest state of each task, and a law that is recovered."""

import math

import numpy as np
import pytest

from seqarch.stats.frontier import Point, SmallestState, choose_runs, smallest_states
from seqarch.stats.law import TERMS, Law, fit_law


def point(state, accuracy, *, size=4, lr=1e-3, seed=0, mixer="gru"):
    return Point(mixer, f"width {state}", size, state, accuracy, 1000, lr, seed)


def test_the_lowest_seed_chooses_the_learning_rate_and_the_others_count():
    runs = [point(64, 0.2, lr=1e-3), point(64, 0.9, lr=1e-2)]
    runs += [point(64, 0.95, lr=1e-3, seed=1), point(64, 0.7, lr=1e-2, seed=1)]
    (found,) = choose_runs(runs)
    assert found.points == (runs[3],) and found.fresh and found.median == 0.7


def test_without_fresh_seeds_the_chosen_run_counts_and_says_so():
    runs = [point(64, 0.2, lr=1e-3), point(64, None, lr=1e-2)]
    (found,) = choose_runs(runs)
    assert found.points == (runs[0],) and not found.fresh


def test_with_one_learning_rate_all_runs_count():
    (found,) = choose_runs([point(64, each, seed=seed) for seed, each in enumerate((1, 0.8, None))])
    assert len(found.points) == 3 and found.fresh and found.median == 0.8


def test_smallest_states_by_mixer_and_size():
    curves = {4: (0.3, 0.92, 0.8, 1.0), 8: (0.1, 0.2, 0.3, 0.89), 2: (0.99, 1.0, 1.0, 1.0)}
    runs = [
        point(64 << index, accuracy, size=size)
        for size, curve in curves.items()
        for index, accuracy in enumerate(curve)
    ]
    assert smallest_states(choose_runs(runs)) == {
        ("gru", 4): SmallestState(128, True, False, 1),
        ("gru", 8): SmallestState(512, False, False, 1),
        ("gru", 2): SmallestState(64, True, True, 1),
    }


STATES = np.tile(2.0 ** np.arange(6, 14), 3)
SIZES = np.repeat([2.0, 4.0, 8.0], 8)
TRUE = dict(zip(TERMS, (9.0, -1.5, 2.0), strict=True))
MANY = np.full(24, 1e12)  # answers, so that the half error that is added is nothing


def errors_of(a, b, c):
    return 1 / (1 + np.exp(-(a + b * np.log2(STATES) + c * np.log2(SIZES))))


def test_a_law_is_recovered_from_its_own_errors():
    law = fit_law(STATES, SIZES, errors_of(*TRUE.values()), MANY)
    for term, value in TRUE.items():
        found = law.coefficient(term)
        assert found.value == pytest.approx(value, rel=1e-6)
        assert found.low == pytest.approx(value, rel=1e-4) == found.high
    # log2(state) = (a + c log2(size) + log 9) / -b at an error of 0.1
    assert law.state(4, 0.1).value == pytest.approx(2 ** ((9 + 4 + math.log(9)) / 1.5), rel=1e-5)
    assert law.error(law.state(16, 0.25).value, 16) == pytest.approx(0.25)


def test_coefficients_are_those_of_a_general_optimiser():
    from scipy import optimize

    rng = np.random.default_rng(0)
    errors = (rng.random(24) < errors_of(*TRUE.values())) * 1.0
    y = (errors * 100 + 0.5) / 101
    x = np.stack([np.ones(24), np.log2(STATES), np.log2(SIZES)], 1)

    def loss(beta):
        odds = x @ beta
        return (np.logaddexp(0, odds) - y * odds).sum()

    expected = optimize.minimize(loss, np.zeros(3), method="BFGS", options=dict(gtol=1e-8)).x
    law = fit_law(STATES, SIZES, errors, np.full(24, 100))
    assert law.coefficients == pytest.approx(expected, rel=1e-4)


def test_intervals_cover_the_true_law():
    rng, covered = np.random.default_rng(1), 0
    for trial in range(40):
        odds = np.log(1 / errors_of(*TRUE.values()) - 1) + rng.normal(0, 1, 24)
        law = fit_law(STATES, SIZES, 1 / (1 + np.exp(odds)), MANY, draws=200, seed=trial)
        found = law.coefficient("log2_state")
        covered += found.low <= -1.5 <= found.high
    assert covered >= 32  # the bootstrap over 24 runs is somewhat narrow


def test_perfectly_separated_runs_have_a_finite_law():
    law = fit_law(STATES, SIZES, (STATES < 32 * SIZES) * 1.0, np.full(24, 5000))
    needed = law.state(8, 0.1)
    assert np.isfinite(law.draws).all() and 128 <= needed.value <= 256


def test_errors_that_do_not_fall_with_the_state_need_none():
    law = fit_law(STATES, SIZES, errors_of(-2.0, 0.3, 0.1), MANY)
    assert law.state(4, 0.1) is None


def test_an_interval_without_an_upper_end_is_infinite():
    draws = np.array([[1.0, -1.0, 1.0]] * 9 + [[1.0, 0.1, 1.0]])
    found = Law(draws[0], draws).state(4, 0.1)
    assert found.value == found.low == pytest.approx(2 ** (3 + math.log(9)))
    assert found.high == math.inf


def test_runs_of_one_state_or_of_one_size_determine_no_law():
    errors = errors_of(*TRUE.values())
    assert fit_law(np.full(24, 64.0), SIZES, errors, MANY) is None
    assert fit_law(STATES, np.full(24, 4.0), errors, MANY) is None
    assert fit_law(STATES, STATES, errors, MANY) is None
