"""minGRU and minLSTM are their equations, also where gates saturate, and stay above 0."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.min_gru import MinGRU
from seqarch.mixers.min_lstm import MinLSTM
from seqarch.ops.scan import FORMS
from tests.grids import product
from tests.oracle import assert_mixer, sigmoid


def proposal(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(p, x, state):
    z, v = np.split(x @ p["inp.kernel"] + p["inp.bias"], 2, -1)
    h = (1 - sigmoid(z)) * state.h + sigmoid(z) * proposal(v)
    return h @ p["out.kernel"], (h,)


def min_lstm(p, x, state):
    f, i, v = np.split(x @ p["inp.kernel"] + p["inp.bias"], 3, -1)
    total = sigmoid(f) + sigmoid(i)
    h = sigmoid(f) / total * state.h + sigmoid(i) / total * proposal(v)
    return h @ p["out.kernel"], (h,)


@pytest.mark.parametrize("method, mixer", product(list(FORMS), [MinGRU, MinLSTM]))
def test_prefill_is_the_equations(method, mixer):
    step = min_gru if mixer is MinGRU else min_lstm
    assert_mixer(partial(mixer, expand=1, method=method, chunk=4), step)


@pytest.mark.parametrize("mixer, step", [(MinGRU, min_gru), (MinLSTM, min_lstm)])
def test_saturated_gates_lose_nothing(mixer, step):
    assert_mixer(mixer, step, scale=20.0)


@pytest.mark.parametrize("mixer", [MinGRU, MinLSTM])
def test_gates_that_are_all_near_zero_have_finite_gradients(mixer):
    made = mixer(2, expand=1, rngs=nnx.Rngs(0))
    u = jnp.full(made.gates * 2, -200.0)
    affine = jax.jit(lambda u: jnp.stack(made._affine(u)))
    a, b = affine(u)
    assert (a >= 0).all() and (b >= 0).all()
    assert jnp.isfinite(jax.jit(jax.jacobian(affine))(u)).all()


def test_an_expansion_below_one_is_refused():
    with pytest.raises(UserError, match="expand is 0; give a whole number"):
        MinGRU(8, expand=0, rngs=nnx.Rngs(0))
