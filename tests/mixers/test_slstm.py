"""The sLSTM is its equations, with and without the stabiliser, and an empty state is a start."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.mixers.slstm import SLSTM
from seqarch.ops.slstm import FORMS
from tests.grids import slow_but
from tests.oracle import assert_form, assert_mixer, normal, sigmoid, softplus

LOG_FORGET = {"sigmoid": lambda f: -softplus(-f), "exp": lambda f: f}


def cell(u, R, state, forget):
    """A token of the stabilised cell, by equations 15 to 17."""
    h, c, n, m = state
    i, f, z, o = np.moveaxis(u + np.einsum("bhk,hkgj->bhgj", h, R), 2, 0)
    log_f, empty = LOG_FORGET[forget](f), n < 0.5
    after = np.where(empty, i, np.maximum(log_f + m, i))
    f = np.where(empty, 0, np.exp(np.minimum(log_f + m - after, 0)))
    i = np.exp(i - after)
    c, n = f * c + i * np.tanh(z), f * n + i
    return sigmoid(o) * c / n, c, n, after


def step(p, x, state, forget="sigmoid"):
    v, conv = x, state.conv
    if "conv.weights" in p:
        window = np.concatenate([conv, x[:, None]], 1)
        v, conv = (window * p["conv.weights"]).sum(1) + p["conv.bias"], window[:, 1:]
        v = v * sigmoid(v)
    H, K = p["recurrent"].shape[:2]
    blocks = lambda x, W: np.einsum("bhk,hkgj->bhgj", x.reshape(-1, H, K), W)
    pairs = [blocks(v, p["input_forget.kernel"]), blocks(x, p["proposal_output.kernel"])]
    u = np.concatenate(pairs, 2) + p["bias"].reshape(H, 4, K)
    h, *rest = cell(u, p["recurrent"], state[1:], forget)
    centred = h - h.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed.reshape(x.shape) * p["norm.scale"], (conv, h, *rest)


@pytest.mark.parametrize("method", slow_but({"recompute"}, FORMS))
def test_prefill_is_the_equations(method):
    assert_mixer(partial(SLSTM, heads=2, method=method), step, tolerance=2e-5)


def test_prefill_is_the_equations_with_an_exponential_forget_gate_and_no_convolution():
    make = partial(SLSTM, heads=2, forget="exp", conv_width=None)
    assert_mixer(make, partial(step, forget="exp"), tolerance=2e-5)


@pytest.mark.parametrize("forget", LOG_FORGET)
def test_the_stabiliser_changes_no_output(forget):
    """Equations 8 to 14 as they stand, from an empty state."""
    T, H, K = 7, 2, 3
    empty = (jnp.zeros((2, H, K)),) * 4
    function = lambda u, R: ops.slstm(u, R, empty, forget=forget)[0]

    def oracle(u, R):
        h, c, n, hs = *np.zeros((3, 2, H, K)), []
        for t in range(T):
            i, f, z, o = np.moveaxis(u[:, t] + np.einsum("bhk,hkgj->bhgj", h, R), 2, 0)
            f = np.exp(LOG_FORGET[forget](f))
            c, n = f * c + np.exp(i) * np.tanh(z), f * n + np.exp(i)
            h = sigmoid(o) * c / n
            hs.append(h)
        return np.stack(hs, 1)

    assert_form(function, oracle, [normal(2, T, H, 4, K), normal(H, K, 4, K)])


@pytest.mark.parametrize("forget", LOG_FORGET)
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_gates_have_finite_outputs_and_gradients(scale, forget):
    def loss(u, R, state):
        hs, after = ops.slstm(u, R, state, forget=forget)
        return hs.sum() + sum(x.sum() for x in after)

    u, R = (jnp.asarray(x, jnp.float32) for x in (normal(2, 6, 2, 4, 3), normal(2, 3, 4, 3)))
    u, state = scale * u, (jnp.zeros((2, 2, 3)),) * 4
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(u, R, state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, gradients)))


def test_the_first_token_ignores_the_forget_gate_and_closed_input_gates_divide_nothing():
    """c / n is tanh(z) after one token, even where exp(i) is below the smallest float."""
    u = jnp.array([-500.0, 3.0, 0.5, 0.0]).reshape(1, 1, 1, 4, 1) * jnp.ones((1, 1, 2, 1, 1))
    zeros = (jnp.zeros((1, 2, 1)),) * 4
    h, (_, c, n, m) = ops.slstm(u, jnp.zeros((2, 1, 4, 1)), zeros)
    np.testing.assert_allclose(h[0, 0], 0.5 * np.tanh(0.5), rtol=1e-6)
    assert (n == 1).all() and (m == -500).all() and (c[0] == jnp.tanh(0.5)).all()


def test_biases_of_the_forget_gates_fall_from_five_to_minus_seven_in_each_head():
    bias = SLSTM(8, heads=2, rngs=nnx.Rngs(0)).bias[...].reshape(2, 4, 4)
    assert (bias[:, 1, 0] == 5).all() and (bias[:, 1, -1] == -7).all()
    assert not bias[:, jnp.array([0, 2, 3])].any()


@pytest.mark.parametrize(
    "options, complaint",
    [
        (dict(heads=3), "slstm: its width 16 does not divide into 3 heads"),
        (dict(conv_width=0), "conv_width is 0; give a number from 1 to 256"),
        (dict(forget="expp"), "did you mean 'exp'"),
    ],
)
def test_a_bad_option_is_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        SLSTM(16, **options, rngs=nnx.Rngs(0))
