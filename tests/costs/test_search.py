"""Curves: exponents of known powers, and the largest size that fits, whatever the curve."""

import numpy as np
import pytest
from scipy import stats

from seqarch.costs.search import largest, on_grid
from seqarch.stats.exponents import Exponent, exponent

LENGTHS = [4**n for n in range(5, 11)]


@pytest.mark.parametrize("power", [0, 1, 2])
def test_exponent_of_a_power_is_that_power(power):
    assert exponent(LENGTHS, [7.0 * n**power for n in LENGTHS]) == pytest.approx(
        (power, 0.0), abs=1e-6
    )


def test_exponent_is_of_the_tail_and_its_interval_tells_of_curvature():
    b, half = exponent(LENGTHS, [1e6 + n for n in LENGTHS])
    assert 0.1 < b < 0.9 and half > 0.1
    assert exponent(LENGTHS, [1e3 + n for n in LENGTHS]).b == pytest.approx(1, abs=0.02)
    assert exponent([1, 2], [1, 2]) is None and exponent([1, 2, 4], [0, 1, 2]) is None
    assert isinstance(exponent([1, 2, 4], [1, 2, 4]), Exponent)
    fit = exponent(LENGTHS[:4], [n * (1 + n / 1e5) for n in LENGTHS[:4]])
    slope = stats.linregress(np.log(LENGTHS[:4]), np.log([n * (1 + n / 1e5) for n in LENGTHS[:4]]))
    assert fit == pytest.approx((slope.slope, stats.t.interval(0.95, 2, scale=slope.stderr)[1]))


CURVES = {
    "affine": lambda n: 1e8 + 3e3 * n,
    "quadratic": lambda n: 1e6 + 40.0 * n * n,
    "stairs": lambda n: 1e7 * (1 + n // 1000) ** 1.5,
    "refused": lambda n: 1e5 * n if n < 40_000 else None,
}


def test_far_too_large_sizes_are_not_asked_for():
    asked = []
    total = lambda n: 1e6 + 4e4 * n
    found = largest(
        lambda n: asked.append(n) or total(n), 8e10, {n: total(n) for n in LENGTHS}, 2**24
    )
    assert (
        total(found.size) <= 8e10 < total(found.beyond)
        and max(asked) < 1.04 * found.size
        and len(asked) <= 3
    )


def test_a_line_that_falls_short_is_drawn_anew_and_not_leapt_over():
    asked = []
    total = lambda n: 2e7 + 1.6e7 * n + 200 * n**1.5
    found = largest(lambda n: asked.append(n) or total(n), 8e10, {0: 2e7}, 2**20)
    assert (
        total(found.size) <= 8e10 < total(found.beyond)
        and max(asked) < 1.1 * found.size
        and len(asked) <= 4
    )


def test_what_is_there_without_any_spares_measurements():
    asked = []
    total = lambda n: 4e6 + 1.8e7 * n
    found = largest(lambda n: asked.append(n) or total(n), 8e10, {0: 4e6}, 2**20)
    assert total(found.size) <= 8e10 < total(found.beyond) and len(asked) <= 3


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("memory", [2e8, 1e9, 16e9])
def test_largest_fits_and_what_is_a_step_beyond_does_not(curve, memory):
    total, asked = CURVES[curve], []
    fits = lambda n: total(n) is not None and total(n) <= memory
    found = largest(
        lambda n: asked.append(n) or total(n), memory, {n: total(n) for n in LENGTHS}, 2**24
    )
    assert fits(found.size) and not fits(found.beyond)
    assert found.size < found.beyond <= max(found.size + 1, found.size * (1 + 1 / 16))
    assert len(asked) < 24 and (curve != "affine" or len(asked) <= 4)


def test_what_never_fits_and_what_always_does():
    assert largest(lambda n: 10.0, 5, {}, 2**20) == (0, 1)
    assert largest(lambda n: 10.0, 50, {}, 2**20) == (2**20, None)


def test_grid_steps_to_neighbours():
    for size in [n for n in range(1, 5000) if on_grid(n) == n]:
        assert on_grid(on_grid(size, 1), -1) == size
        assert size < on_grid(size, 1) <= size * (1 + 1 / 16) + 1
