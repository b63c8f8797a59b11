"""Complex recurrences are their step-by-step definitions, in every form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqarch import ops
from seqarch.ops.diagonal_ssm import FORMS, from_parts, parts, zero_order_hold
from seqarch.ops.scan import FORMS as LINEAR_SCAN
from tests.grids import product
from tests.oracle import RNG, assert_form, normal, sigmoid

B, T, E, N, CHUNK = 2, 19, 5, 3, 8
STARTS = RNG.random((B, T)) < 0.15
STARTS[1, [0, 8, 9]] = True
VALID = np.arange(T) < np.array([[T], [T - 4]])


def pair(x, axis):
    return np.stack([x.real, x.imag], axis)


def unpair(x, axis):
    re, im = np.moveaxis(x, axis, 0)
    return re + 1j * im


def linear_scan(a, b, h):
    a, b, h, hs = unpair(a, 0), unpair(b, 0), unpair(h, 0), []
    for t in range(T):
        h = a[:, t] * np.where(STARTS[:, t, None], 0, h) + b[:, t]
        hs.append(h)
    return pair(np.stack(hs, 1), 0), pair(h, 0)


@pytest.mark.parametrize("method", LINEAR_SCAN)
def test_linear_scan_of_complex_numbers(method):
    def function(*arguments):
        a, b, h = (from_parts(x, 0) for x in arguments)
        hs, h = ops.linear_scan(a, b, h, starts=STARTS, method=method, chunk=CHUNK)
        return parts(hs, 0), parts(h, 0)

    a = sigmoid(normal(B, T, E)) * np.exp(1j * normal(B, T, E))
    assert_form(function, linear_scan, [pair(a, 0), normal(2, B, T, E), normal(2, B, E)])


def diagonal_ssm(starts, valid, u, log_a, b, c, h):
    log_a, b, c, h = (unpair(x, axis) for x, axis in ((log_a, 0), (b, 0), (c, 0), (h, 1)))
    ys = []
    for t in range(T):
        after = np.exp(log_a) * np.where(starts[:, t, None, None], 0, h) + b * u[:, t, None]
        h = np.where(valid[:, t, None, None], after, h)
        ys.append(np.where(valid[:, t, None], (c * after).sum(1).real, 0))
    return np.stack(ys, 1), pair(h, 1)


@pytest.mark.parametrize("method, packed", product(list(FORMS), [True, False]))
def test_diagonal_ssm(method, packed):
    starts, valid = (STARTS & VALID, VALID) if packed else (None, None)

    def function(u, log_a, b, c, h):
        weights = (from_parts(x, 0) for x in (log_a, b, c))
        y, h = ops.diagonal_ssm(
            u, *weights, h, starts=starts, valid=valid, method=method, chunk=CHUNK
        )
        return (jnp.where(VALID[..., None], y, 0) if packed else y), h

    def oracle(*arguments):
        given = (STARTS & VALID, VALID) if packed else (STARTS & False, VALID | True)
        return diagonal_ssm(*given, *arguments)

    log_a = np.stack([-np.exp(normal(N, E) - 2), normal(N, E)])
    weights = [log_a, normal(2, N, E), normal(2, N, E)]
    assert_form(function, oracle, [normal(B, T, E), *weights, normal(B, 2, N, E)])


def test_chunks_add_no_error_where_states_last_and_turn_fast():
    """The state turns by up to 9.7 a token and keeps 99.95 % of its length, as at S4D's start."""
    log_a = np.stack([np.full((32, 1), -5e-4), 0.1 * np.pi * np.arange(32.0)[:, None]])
    u, c = normal(2, 512, 1), pair(np.ones((32, 1)), 0)
    outputs = [
        jax.jit(partial(ops.diagonal_ssm, method=method, chunk=64))(
            jnp.asarray(u, jnp.float32), *_complex(log_a, c, c)
        )[0]
        for method in ("sequential", "parallel")
    ]
    a, h, exact = np.exp(unpair(np.float32(log_a).astype(float), 0)), 0, []
    for t in range(512):
        h = a * h + u[:, t, None]
        exact.append(h.sum(1).real)
    for y in outputs:
        assert_allclose(y, np.stack(exact, 1), rtol=0, atol=1e-4 * np.abs(exact).max())


def _complex(*arrays):
    return (from_parts(jnp.asarray(x, jnp.float32), 0) for x in arrays)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_zero_order_hold_of_small_steps_loses_no_digits(size):
    Lambda, delta = np.array([-0.5 + 3j, -1e-4 + 1j]), np.full(2, size)
    log_a, b = zero_order_hold(jnp.asarray(Lambda, jnp.complex64), jnp.log(jnp.float32(delta)))
    exact = np.expm1(Lambda * delta) / Lambda
    assert_allclose(log_a, Lambda * delta, rtol=1e-5)
    assert_allclose(b, exact, rtol=1e-5)
    gradient = jax.grad(lambda d: zero_order_hold(jnp.asarray(Lambda), d)[1].real.sum())
    expected = (delta * np.exp(Lambda * delta)).real
    assert_allclose(gradient(jnp.log(jnp.float32(delta))), expected, rtol=1e-5)
