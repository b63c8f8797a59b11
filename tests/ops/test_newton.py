"""Newton's method on the states of a cell: exact prefixes, a fallback, few iterations."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops

newton = importlib.import_module("seqarch.ops.newton")
gru = importlib.import_module("seqarch.ops.gru")

B, T, E = 2, 19, 4


def arguments(scale: float):
    """u, W, b and h0 of a GRU whose recurrent weights have singular values of about `scale`."""
    rng = np.random.default_rng(0)
    shapes = (B, T, 3 * E), (E, 3 * E), (3 * E,), (B, E)
    u, W, b, h0 = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    return u, W * scale * E**-0.5, b, jnp.tanh(h0)


@jax.jit
def iterations(u, W, b, h0):
    u = jnp.moveaxis(u, 1, 0)
    at = newton.NonlinearRecurrence(gru.CELL, u, None, None, (W, b), h0[..., None])
    return newton.states(at).iterations


def test_small_recurrent_weights_take_few_iterations():
    counts = [int(iterations(*arguments(scale))) for scale in (0.0, 0.3, 1.0)]
    assert counts == sorted(counts) and counts[0] <= 3 and counts[-1] < T


def test_after_i_iterations_the_first_i_states_are_exact(monkeypatch):
    monkeypatch.setattr(newton, "MOST", 5)
    u, W, b, h0 = arguments(3.0)
    exact = jnp.moveaxis(ops.gru(u, W, b, h0, method="sequential")[0], 1, 0)
    at = newton.NonlinearRecurrence(
        gru.CELL, jnp.moveaxis(u, 1, 0), None, None, (W, b), h0[..., None]
    )
    guess = jnp.broadcast_to(at.first, (T, *at.first.shape))
    found = newton.solve(at.function, at.jacobian, guess)
    assert not found.converged and found.iterations == 5
    errors = np.abs(found.x[..., 0] - exact).max(axis=(1, 2))
    assert errors[:5].max() < 1e-6 < errors[5:].max()


@pytest.mark.parametrize("most", [100, 1])
def test_values_and_gradients_are_those_of_steps(most, monkeypatch):
    """Also where iterations do not converge, and the states are then found token by token."""
    monkeypatch.setattr(newton, "MOST", most)
    starts = jnp.arange(T)[None] == jnp.array([[0], [7]])
    valid = jnp.arange(T)[None] < jnp.array([[T], [11]])
    weights = jnp.cos(jnp.arange(B * T * E, dtype=jnp.float32)).reshape(B, T, E)

    def loss(arguments, method):
        y, h = ops.gru(*arguments, starts=starts, valid=valid, method=method)
        return (weights * y).sum() + (h**2).sum(), y

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    both = [run(arguments(1.0), method) for method in ("sequential", "newton")]
    for expected, given in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(given, expected, atol=2e-5 * np.abs(expected).max())
