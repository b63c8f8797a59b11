"""Scaled frequencies of rotary positions: what each kind leaves as it is, and what it divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqarch import ops
from seqarch.errors import UserError
from seqarch.ops.rope_scaling import frequencies, magnitude

BASE, PAIRS = 500_000.0, 64
PLAIN = frequencies(BASE, PAIRS)


def test_frequencies_fall_from_one():
    assert_allclose(PLAIN, [BASE ** (-i / PAIRS) for i in range(PAIRS)])


def test_linear_divides_all():
    assert_allclose(frequencies(BASE, PAIRS, "linear:4"), PLAIN / 4)


@pytest.mark.parametrize("scaling", ["llama3:8:1:4:8192", "yarn:8:32:1:8192:1"])
def test_fast_pairs_stay_and_slow_ones_are_divided(scaling):
    given = frequencies(BASE, PAIRS, scaling)
    turns = 8192 * PLAIN / (2 * np.pi)
    assert_allclose(given[turns > 40], PLAIN[turns > 40])
    assert_allclose(given[turns < 0.8], PLAIN[turns < 0.8] / 8)
    assert ((PLAIN / given >= 1) & (PLAIN / given < 8.001)).all()
    assert (np.diff(given) < 0).all()


def test_llama3_is_linear_in_the_turns_between_its_bounds():
    turns = 8192 * PLAIN / (2 * np.pi)
    between = (turns > 1) & (turns < 4)
    kept = (turns[between] - 1) / 3
    expected = PLAIN[between] * (kept + (1 - kept) / 8)
    assert between.any()
    assert_allclose(frequencies(BASE, PAIRS, "llama3:8:1:4:8192")[between], expected)


def test_first_channels_alone_are_rotated_and_yarn_scales_them():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 8)), jnp.float32)
    position = jnp.arange(3)[None]
    rope = jax.jit(ops.rope, static_argnames=("rotated", "scaling"))
    x, y = np.asarray(x), np.asarray(rope(x, position, rotated=4))
    assert_allclose(y[..., 4:], x[..., 4:])
    assert_allclose(y[..., :4], rope(x[..., :4], position), rtol=1e-6)
    scaling = "yarn:4:32:1:8:1.5"
    assert magnitude(scaling) == 1.5 and magnitude("linear:4") == magnitude(None) == 1
    norm = lambda x: np.linalg.norm(x, axis=-1)
    assert_allclose(norm(rope(x, position, scaling=scaling)), 1.5 * norm(x), rtol=1e-5)


@pytest.mark.parametrize("text", ["", "ntk:2", "linear", "linear:0", "linear:x", "llama3:8"])
def test_no_scaling_is_a_line(text):
    with pytest.raises(UserError, match="give linear:FACTOR, llama3:"):
        frequencies(BASE, PAIRS, text)
