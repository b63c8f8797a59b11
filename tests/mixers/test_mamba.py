"""Mamba is its equations, also with negative eigenvalues, which can turn the sign of the state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.mixers.mamba import Mamba
from seqarch.ops.selective_scan import decays
from tests.oracle import assert_mixer, sigmoid, softplus


def step(p, x, state, negative):
    u, z = np.split(x @ p["inp.kernel"], 2, -1)
    window = np.concatenate([state.conv, u[:, None]], 1)
    u = (window * p["conv"]).sum(1) + p["conv_bias"]
    u = u * sigmoid(u)
    R, N = len(p["delta"]), p["log_A"].shape[1]
    low, B, C = np.split(u @ p["select.kernel"], [R, R + N], -1)
    delta = softplus(low @ p["delta"] + p["delta_bias"])
    a = np.exp(delta[:, None] * -np.exp(p["log_A"]).T)
    h = (2 * a - 1 if negative else a) * state.h + (delta * u)[:, None] * B[..., None]
    y = (h * C[..., None]).sum(1) + p["D"] * u
    return (y * z * sigmoid(z)) @ p["out.kernel"], (window[:, 1:], h)


@pytest.mark.parametrize("negative", [False, True])
def test_prefill_is_the_equations(negative):
    mixer = partial(Mamba, state_dim=3, negative_eigenvalues=negative, chunk=4)
    assert_mixer(mixer, partial(step, negative=negative))


def test_decays_may_be_negative_and_padding_leaves_the_state_alone():
    delta, A = jnp.array([[0.0, 5.0]]), jnp.full((1, 2), -1.0)
    expected = [[[1.0, 2 * np.exp(-5.0) - 1]]]
    np.testing.assert_allclose(decays(delta, A, True), expected, rtol=1e-6)


def test_a_mamba_with_negative_eigenvalues_steps_as_it_trains():
    mixer = jax.jit(lambda: Mamba(8, negative_eigenvalues=True, rngs=nnx.Rngs(0)))()
    mixer.delta_bias[...] += 6.0  # large steps, for which decays are near -1
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)

    @jax.jit
    def stepped(mixer, x):
        step = lambda state, x: mixer.step(x, state)[::-1]
        return jax.lax.scan(step, mixer.init_state(1, 0), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    trained = jax.jit(lambda mixer, x: mixer(x))(mixer, x)
    np.testing.assert_allclose(stepped(mixer, x), trained, rtol=0, atol=1e-5)
