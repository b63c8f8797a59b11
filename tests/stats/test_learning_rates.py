"""The choice of a learning rate by fit rate, and the window of those that work."""

import math

import pytest

from seqarch.stats.learning_rates import (
    choose_learning_rate,
    half_octave_grid,
    learning_rate_window,
)

GRID = (1e-3, 1.414e-3, 2e-3, 2.828e-3, 4e-3)


def scores(*fits, of=5):
    """Scores on GRID of which so many of five fit."""
    return {lr: [1.0] * each + [0.4] * (of - each) for lr, each in zip(GRID, fits, strict=True)}


def test_a_grid_has_two_learning_rates_an_octave():
    assert half_octave_grid(1e-3, 4e-3) == GRID
    assert half_octave_grid(1e-3, 3.9e-3) == GRID[:-1]
    assert len(half_octave_grid(2**-12, 2**-6)) == 13


def test_the_fit_rate_comes_before_the_median():
    given = {1e-3: [1.0, 1.0, 0.1, 0.1, 0.1], 2e-3: [0.98, 0.98, 0.98, 0.98, 1.0]}
    assert choose_learning_rate(given, 0.99) == 1e-3
    assert choose_learning_rate(given, 0.97) == 2e-3


def test_the_median_decides_between_equal_fit_rates():
    assert choose_learning_rate({1e-3: [0.2, 0.3, 0.9], 2e-3: [0.1, 0.4, 0.5]}, 0.99) == 2e-3


def test_of_equals_the_middle_one_is_chosen():
    assert choose_learning_rate(scores(5, 5, 5, 4, 0), 0.99) == GRID[1]
    assert choose_learning_rate(scores(5, 5, 4, 4, 0), 0.99) == GRID[0]


def test_a_diverged_run_is_a_failure_and_below_all_others():
    given = {1e-3: [1.0, 1.0, None], 2e-3: [1.0, 1.0, 0.2], 4e-3: [math.nan] * 3}
    assert choose_learning_rate(given, 0.99) in (1e-3, 2e-3)
    assert choose_learning_rate({1e-3: [0.5, None, None], 2e-3: [0.1, 0.1, 0.1]}, 0.99) == 2e-3
    assert choose_learning_rate({1e-3: [None, None]}, 0.99) is None


def test_without_a_threshold_every_run_that_ended_fits():
    """Of a text, whose bits per byte are negated."""
    given = {1e-3: [-2.6, -2.7], 2e-3: [-2.5, -2.5], 4e-3: [-2.4, None]}
    assert choose_learning_rate(given, -math.inf) == 2e-3


@pytest.mark.parametrize(
    "fits, window",
    [
        ((0, 3, 5, 4, 2), (GRID[1], GRID[3], 1.0, False, False)),
        ((5, 5, 3, 0, 0), (GRID[0], GRID[2], 1.0, True, False)),
        ((5, 5, 5, 5, 5), (GRID[0], GRID[4], 2.0, True, True)),
        ((0, 0, 0, 0, 3), (GRID[4], GRID[4], 0.0, False, True)),
        ((3, 0, 3, 3, 0), (GRID[2], GRID[3], 0.5, False, False)),  # unbroken, and the widest
        ((3, 0, 0, 3, 0), (GRID[0], GRID[0], 0.0, True, False)),
    ],
)
def test_the_window_is_where_at_least_half_of_the_seeds_fit(fits, window):
    found = learning_rate_window(scores(*fits), 0.99)
    assert found == pytest.approx(window, abs=5e-4)


def test_half_of_the_seeds_is_enough_and_no_window_is_none():
    assert learning_rate_window({1e-3: [1.0, None], 2e-3: [0.5, 0.5]}, 0.99).high == 1e-3
    assert learning_rate_window(scores(2, 2, 2, 2, 2), 0.99) is None
