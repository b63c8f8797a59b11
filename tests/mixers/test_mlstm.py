"""The mLSTM is its equations, and its stabiliser changes nothing but the range of numbers."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.mlstm import MLSTM, MLSTMState
from seqarch.ops.stabiliser import stabiliser
from tests.oracle import assert_form, assert_mixer, normal, sigmoid, softplus

H, K = 2, 8


def step(p, x, state):
    heads = lambda y: y.reshape(len(y), H, -1)
    u = x @ p["up.kernel"]
    recent = np.concatenate([state.conv, u[:, None]], 1)
    c = np.einsum("bwe,we->be", recent, p["conv.weights"]) + p["conv.bias"]
    c = c * sigmoid(c)
    blocks = lambda y, W: np.einsum("bhk,hkgj->gbhj", y.reshape(len(y), *W.shape[:2]), W)
    q, k, v = (y.reshape(u.shape) for y in [*blocks(c, p["qk.kernel"]), *blocks(u, p["v.kernel"])])
    i, f = np.split(np.concatenate([q, k, v], -1) @ p["gates"] + p["bias"], 2, -1)
    q, k, v = heads(q), heads(k) / np.sqrt(K), heads(v)
    m = np.maximum(-softplus(-f) + state.m, i)
    a, i = np.exp(-softplus(-f) + state.m - m), np.exp(i - m)
    C = a[..., None, None] * state.C + np.einsum("bh,bhk,bhv->bhkv", i, k, v)
    n = a[..., None] * state.n + i[..., None] * k
    below = np.maximum(np.abs(np.einsum("bhk,bhk->bh", n, q)), np.exp(-m))
    h = np.einsum("bhk,bhkv->bhv", q, C) / below[..., None]
    centred = h - h.mean(-1, keepdims=True)
    h = (centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)).reshape(u.shape)
    z = x @ p["gate.kernel"]
    y = (h * p["norm.scale"] + p["skip"] * c) * z * sigmoid(z)
    return y @ p["out.kernel"], MLSTMState(recent[:, 1:], C, n, m)


def test_prefill_is_the_equations():
    assert_mixer(partial(MLSTM, heads=H, chunk=4), step, tolerance=3e-5)


def test_the_stabiliser_is_its_recurrence():
    B, T = 2, 9
    starts = np.zeros((B, T), bool)
    starts[0, [0, 4, 5]] = True

    def oracle(log_f, i, m):
        ms, decays = [], []
        for t in range(T):
            before = np.where(starts[:, t, None], 0, m)
            m = np.maximum(log_f[:, t] + before, i[:, t])
            ms.append(m)
            decays.append(log_f[:, t] + before - m)
        return np.stack(ms, 1), np.stack(decays, 1)

    function = lambda log_f, i, m: stabiliser(log_f, i, m, jnp.asarray(starts))
    assert_form(function, oracle, [-softplus(normal(B, T, H)), 3 * normal(B, T, H), normal(B, H)])


def test_blocks_that_do_not_divide_are_named():
    with pytest.raises(UserError, match="4 must divide the inner channels"):
        MLSTM(9, heads=2, rngs=nnx.Rngs(0))
