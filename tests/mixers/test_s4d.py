"""S4D is its equations, also where states hardly decay, and starts as S4D-Lin."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.s4d import S4D
from seqarch.ops.diagonal_ssm import FORMS
from tests.grids import slow_but
from tests.oracle import assert_mixer, sigmoid


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def step(p, x, state):
    delta, A = np.exp(p["log_delta"]), -np.exp(p["log_decay"]) + 1j * p["turn"]
    a = np.exp(delta * A)
    h = a * (state.h[:, 0] + 1j * state.h[:, 1]) + (a - 1) / A * x[:, None]
    y = 2 * ((p["C"][0] + 1j * p["C"][1]) * h).sum(1).real + p["D"] * x
    z = gelu(y)
    o = (z @ p["out.kernel"] + p["out.bias"]) * sigmoid(z @ p["gate.kernel"] + p["gate.bias"])
    return o, (np.stack([h.real, h.imag], 1),)


@pytest.mark.parametrize("method", slow_but({"chunked"}, FORMS))
def test_prefill_is_the_equations(method):
    assert_mixer(partial(S4D, state_dim=3, method=method, chunk=4), step)


@pytest.mark.parametrize("log_decay", [-12.0, 6.0], ids=["lasting", "forgetting"])
def test_extreme_decays_lose_nothing(log_decay):
    def make(dim, rngs):
        mixer = S4D(dim, state_dim=2, chunk=4, rngs=rngs)
        mixer.log_decay[...] = jnp.full((2, dim), log_decay)
        return mixer

    assert_mixer(make, step, dim=4)


def test_it_starts_as_s4d_lin():
    mixer = jax.jit(lambda: S4D(512, rngs=nnx.Rngs(0)))()
    np.testing.assert_allclose(np.exp(mixer.log_decay[...]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(mixer.turn[:, 3], np.pi * np.arange(32), rtol=1e-6)
    delta = np.exp(mixer.log_delta[...])
    np.testing.assert_allclose(np.quantile(delta, [0, 0.5, 1]), [1e-3, 1e-2, 1e-1], rtol=0.3)
    assert mixer.init_state(1, 0).h.size == 512 * 64


def test_an_empty_state_is_refused():
    with pytest.raises(UserError, match="state_dim is 0; give a whole number"):
        S4D(8, state_dim=0, rngs=nnx.Rngs(0))
