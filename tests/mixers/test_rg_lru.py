"""The RG-LRU is its equations, also where a is close to 1, and starts as in RecurrentGemma."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.rg_lru import RGLRU, bounded_sqrt
from seqarch.ops.scan import FORMS
from tests.grids import slow_but
from tests.oracle import assert_mixer, sigmoid


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def step(p, x, state):
    u, gate = np.split(x @ p["inp.kernel"] + p["inp.bias"], 2, -1)
    window = np.concatenate([state.conv, u[:, None]], 1)
    u = (window * p["conv.weights"]).sum(1) + p["conv.bias"]
    H, K = p["gates.kernel"].shape[:2]
    gates = np.einsum("bhk,hkgj->bghj", u.reshape(-1, H, K), p["gates.kernel"])
    bias = p["gates.bias"].reshape(H, 2, K).swapaxes(0, 1)
    r, i = np.moveaxis(sigmoid(gates + bias).reshape(-1, 2, H * K), 1, 0)
    a = sigmoid(p["Lambda"]) ** (8 * r)
    h = a * state.h + np.sqrt(1 - a**2) * (i * u)
    return (gelu(gate) * h) @ p["out.kernel"] + p["out.bias"], (window[:, 1:], h)


@pytest.mark.parametrize("method", slow_but({"chunked"}, FORMS))
def test_prefill_is_the_equations(method):
    assert_mixer(partial(RGLRU, hidden=12, blocks=3, method=method, chunk=4), step)


def test_decays_close_to_one_and_to_zero_lose_nothing():
    def make(dim, rngs):
        mixer = RGLRU(dim, rngs=rngs)
        mixer.Lambda[...] = jnp.linspace(-8.0, 8.0, dim)
        return mixer

    assert_mixer(make, step, scale=5.0)


def test_gradients_are_finite_where_a_rounds_to_one():
    def gradient():
        mixer = RGLRU(4, rngs=nnx.Rngs(0))
        mixer.Lambda[...] = jnp.full(4, 200.0)
        return jax.grad(lambda mixer: mixer(jnp.ones((1, 3, 4))).sum())(mixer)

    gradient = jax.jit(gradient)()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jax.grad(bounded_sqrt)(0.0) == pytest.approx(1000)


def test_a_starts_in_the_ring_of_recurrentgemma():
    mixer = jax.jit(lambda: RGLRU(2, hidden=2048, blocks=2048, rngs=nnx.Rngs(0)))()
    a = sigmoid(np.asarray(mixer.Lambda[...]))
    assert 0.9 <= a.min() and a.max() <= 0.999
    expected = np.linspace(0.9**2, 0.999**2, 5)
    np.testing.assert_allclose(np.quantile(a**2, np.linspace(0, 1, 5)), expected, atol=5e-3)


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="blocks must divide the width"):
        RGLRU(16, blocks=3, rngs=nnx.Rngs(0))
