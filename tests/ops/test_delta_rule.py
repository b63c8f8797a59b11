"""Erasing, negative and extreme decays of linear attention, against the recurrence in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.linear_attention import FORMS, Tokens, linear_attention_step
from seqarch.ops.triangular import unit_inverse
from tests.grids import diagonal, product
from tests.oracle import assert_form, normal, sigmoid, softplus

METHODS, DECAYS = ["sequential", "chunked", "parallel"], ["head", "channel", "none"]

B, T, H, K, V, CHUNK = 2, 19, 2, 3, 4, 12  # a chunk that is not a power of two
STARTS = np.zeros((B, T), bool)
STARTS[0, [0, 5, 6, 16]] = True


def recurrence(q, k, v, a, p, r, S, starts):
    """Returns S_t = diag(a_t) S_{t-1} - p_t (r_t^T S_{t-1}) + k_t v_t^T read by q_t, and S_T."""
    os = []
    for t in range(q.shape[1]):
        S = np.where(starts[:, t, None, None, None], 0, S)
        u = np.einsum("bhk,bhkv->bhv", r[:, t], S)
        S = a[:, t, ..., None] * S - np.einsum("bhk,bhv->bhkv", p[:, t], u)
        S = S + np.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        os.append(np.einsum("bhk,bhkv->bhv", q[:, t], S))
    return np.stack(os, 1), S


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def per_channel(x):
    return np.broadcast_to(x.reshape(*x.shape[:3], -1), (*x.shape[:3], K))


@pytest.mark.parametrize(
    "method, decay, packed",
    product(METHODS, DECAYS, [True]) + diagonal(METHODS, DECAYS, [False]),
)
def test_the_delta_rule_is_its_recurrence(method, decay, packed):
    starts = STARTS if packed else None
    shape = {"none": None, "head": (B, T, H), "channel": (B, T, H, K)}[decay]
    negative = None if shape is None else normal(*shape) > 0
    arguments = [normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V)]
    p = sigmoid(normal(B, T, H, 1)) * unit(normal(B, T, H, K))
    arguments += [p, unit(normal(B, T, H, K)), normal(B, H, K, V)]
    arguments += [] if shape is None else [-softplus(normal(*shape))]
    begins = np.zeros((B, T), bool) if starts is None else starts

    def function(q, k, v, p, r, S, g=None):
        how = dict(p=p, r=r, negative=negative, starts=starts, method=method, chunk=CHUNK)
        return ops.linear_attention(q, k, v, g, S, **how)

    def oracle(q, k, v, p, r, S, g=None):
        a = np.ones((B, T, H))
        if g is not None:
            a = np.where(negative, -1, 1) * np.exp(g)
        return recurrence(q, k, v, per_channel(a), p, r, S, begins)

    assert_form(function, oracle, arguments)


def test_a_step_is_the_recurrence():
    q, k, p, r = (normal(B, H, K) for _ in range(4))
    v, g, S = normal(B, H, V), -softplus(normal(B, H, K)), normal(B, H, K, V)
    negative = normal(B, H, K) > 0

    def function(q, k, v, g, p, r, S):
        return linear_attention_step(Tokens(q, k, v, g, p, r, negative), S)

    def oracle(q, k, v, g, p, r, S):
        a = np.where(negative, -1, 1) * np.exp(g)
        tokens = (x[:, None] for x in (q, k, v, a, p, r))
        o, S = recurrence(*tokens, S, np.zeros((B, 1), bool))
        return o[:, 0], S

    assert_form(function, oracle, [q, k, v, g, p, r, S])


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("erases", [False, True])
def test_extreme_decays_are_as_exact_as_mild_ones(decay, erases):
    """Log-decays from -20 to -1e-3 and 0 mixed in a row of 513 tokens."""
    rng, time = np.random.default_rng(1), 513
    shape = (1, time, H) if decay == "head" else (1, time, H, K)
    g = -np.exp(rng.uniform(np.log(1e-3), np.log(20.0), shape))
    g = np.where(rng.random(shape) < 0.05, 0.0, g)
    q, k, r = (unit(rng.normal(size=(1, time, H, K))) for _ in range(3))
    v, S = rng.normal(size=(1, time, H, V)), rng.normal(size=(1, H, K, V))
    a = per_channel(np.exp(g))
    r = a * r if erases else 0 * r
    expected, _ = recurrence(q, k, v, a, k, r, S, np.zeros((1, time), bool))
    given = [jnp.asarray(x, jnp.float32) for x in (q, k, v, g, S)]
    erase = dict(r=jnp.asarray(r, jnp.float32)) if erases else {}
    for chunk in (16, 64):
        attend = jax.jit(partial(ops.linear_attention, method="chunked", chunk=chunk))
        o, _ = attend(*given, **erase)
        assert np.abs(o - expected).max() <= 3e-6 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("method", FORMS)
def test_erasing_loses_nothing_over_many_tokens(method):
    rng, time = np.random.default_rng(2), 16384 if method == "chunked" else 1024
    q, k = (unit(rng.normal(size=(1, time, H, K))) for _ in range(2))
    v, b = rng.normal(size=(1, time, H, V)), sigmoid(rng.normal(size=(1, time, H, 1)))
    ones, S = np.ones((1, time, H, K)), np.zeros((1, H, K, V))
    expected, _ = recurrence(q, b * k, v, ones, b * k, k, S, np.zeros((1, time), bool))
    given = [jnp.asarray(x, jnp.float32) for x in (q, b * k, v)]
    r = jnp.asarray(k, jnp.float32)
    o = jax.jit(lambda q, k, v, r: ops.linear_attention(q, k, v, r=r, method=method)[0])(*given, r)
    assert np.abs(o - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("size", [1, 2, 7, 21, 32])
def test_the_inverse_of_a_unit_triangular_matrix(size):
    """Its derivative is that along strictly lower triangular directions."""
    lower = np.tril(np.ones((size, size)), -1)
    function = lambda A: unit_inverse(A * lower[None])
    oracle = lambda A: np.linalg.inv(np.eye(size) + A * lower)
    assert_form(function, oracle, [np.random.default_rng(0).uniform(-1, 1, (3, size, size))])
