"""Every form of every op is the step-by-step definition in float64: values, states and
gradients.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqarch import ops
from seqarch.errors import UserError
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.cache_attention import CacheBlocks, accelerator_blocks, cache_attention
from seqarch.ops.feature_maps import elu
from seqarch.ops.gru import FORMS as GRU
from seqarch.ops.linear_attention import FORMS as LINEAR_ATTENTION
from seqarch.ops.lstm import FORMS as LSTM
from seqarch.ops.online_softmax import merge
from seqarch.ops.scan import FORMS as LINEAR_SCAN
from seqarch.ops.selective_scan import FORMS as SELECTIVE_SCAN
from seqarch.ops.visibility import Places, Rule
from tests.grids import diagonal, product
from tests.oracle import RNG, assert_form, normal, sigmoid

B, T, H, G, K, V, E, N = 2, 19, 4, 2, 4, 3, 5, 3
CHUNK = 8  # shorter than T, and no divisor of it
STARTS = RNG.random((B, T)) < 0.15
STARTS[1, [0, 8, 9]] = True
DECAYS = ["none", "head", "channel"]
RULES = {"causal": {}, "window": dict(window=3), "full": dict(causal=False)}


def linear_scan(a, b, h, starts):
    hs = []
    for t in range(T):
        h = a[:, t] * np.where(starts[:, t, None], 0, h) + b[:, t]
        hs.append(h)
    return np.stack(hs, 1), h


def linear_attention(q, k, v, g, S, starts):
    g = np.broadcast_to(g.reshape(*g.shape[:3], -1), (B, T, H, K))
    os = []
    for t in range(T):
        S = np.exp(g[:, t])[..., None] * np.where(starts[:, t, None, None, None], 0, S) + np.einsum(
            "bhk,bhv->bhkv", k[:, t], v[:, t]
        )
        os.append(np.einsum("bhk,bhkv->bhv", q[:, t], S))
    return np.stack(os, 1), S


def selective_scan(x, delta, A, Bt, C, D, h, starts, negative):
    ys, scale = [], 2 if negative else 1
    for t in range(T):
        h = np.where(starts[:, t, None, None], 0, h)
        h = (scale * np.exp(delta[:, t, None] * A.T) - (scale - 1)) * h + (delta[:, t] * x[:, t])[
            :, None
        ] * Bt[:, t, :, None]
        ys.append(np.einsum("bne,bn->be", h, C[:, t]) + D * x[:, t])
    return np.stack(ys, 1), h


def gru(u, W, b, h, starts, valid):
    hs = []
    for t in range(T):
        before = np.where(starts[:, t, None], 0, h)
        (ur, uz, un), (sr, sz, sn) = (np.split(x, 3, -1) for x in (u[:, t], before @ W + b))
        r, z = sigmoid(ur + sr), sigmoid(uz + sz)
        h = np.where(valid[:, t, None], (1 - z) * np.tanh(un + r * sn) + z * before, h)
        hs.append(h)
    return np.stack(hs, 1), h


def lstm(u, W, h, c, starts, valid):
    hs = []
    for t in range(T):
        before, kept = (np.where(starts[:, t, None], 0, x) for x in (h, c))
        i, f, z, o = np.split(u[:, t] + before @ W, 4, -1)
        after = sigmoid(f) * kept + sigmoid(i) * np.tanh(z)
        c = np.where(valid[:, t, None], after, c)
        h = np.where(valid[:, t, None], sigmoid(o) * np.tanh(after), h)
        hs.append(h)
    return np.stack(hs, 1), (h, c)


def attention(q, k, v, segment, window, causal):
    o = np.zeros_like(q)
    for b, t, h in np.ndindex(B, T, H):
        seen = [
            s
            for s in range(T)
            if segment[b, s] == segment[b, t]
            and (not causal or (s <= t and (window is None or t - s < window)))
        ]
        scores = k[b, seen, h // (H // G)] @ q[b, t, h] / np.sqrt(K)
        weights = np.exp(scores - scores.max())
        o[b, t, h] = weights @ v[b, seen, h // (H // G)] / weights.sum()
    return o


@pytest.mark.parametrize("method, packed", product(list(LINEAR_SCAN), [True, False]))
def test_linear_scan(method, packed):
    starts = STARTS if packed else None
    function = lambda a, b, h: ops.linear_scan(a, b, h, starts=starts, method=method, chunk=CHUNK)
    begins = np.zeros((B, T), bool) if starts is None else starts
    assert_form(
        function,
        lambda a, b, h: linear_scan(a, b, h, begins),
        [sigmoid(normal(B, T, E)), normal(B, T, E), normal(B, E)],
    )


@pytest.mark.parametrize(
    "method, decay, packed",
    product(list(LINEAR_ATTENTION), DECAYS, [True])
    + diagonal(list(LINEAR_ATTENTION), DECAYS, [False]),
)
def test_linear_attention(method, decay, packed):
    starts = STARTS if packed else None
    g = -np.log1p(
        np.exp(normal(*{"none": (B, T, H), "head": (B, T, H), "channel": (B, T, H, K)}[decay]))
    )
    state = normal(B, H, K, V)
    begins = np.zeros((B, T), bool) if starts is None else starts

    def function(q, k, v, *g):
        log_decay = g[0] if g else None
        initial = jnp.asarray(state, jnp.float32)
        return ops.linear_attention(
            q, k, v, log_decay, initial, starts=starts, method=method, chunk=CHUNK
        )

    def oracle(q, k, v, *g):
        return linear_attention(q, k, v, g[0] if g else np.zeros((B, T, H)), state, begins)

    arguments = [normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V)] + (
        [] if decay == "none" else [g]
    )
    assert_form(function, oracle, arguments)


@pytest.mark.parametrize(
    "method, negative, packed",
    product(list(SELECTIVE_SCAN), [True, False], [True])
    + diagonal(list(SELECTIVE_SCAN), [True, False], [False]),
)
def test_selective_scan(method, negative, packed):
    starts = STARTS if packed else None
    function = lambda *arguments: ops.selective_scan(
        *arguments, starts=starts, negative_eigenvalues=negative, method=method, chunk=CHUNK
    )
    begins = np.zeros((B, T), bool) if starts is None else starts
    oracle = lambda *arguments: selective_scan(*arguments, begins, negative)
    delta, A = np.log1p(np.exp(normal(B, T, E))), -np.exp(normal(E, N))
    arguments = [
        normal(B, T, E),
        delta,
        A,
        normal(B, T, N),
        normal(B, T, N),
        normal(E),
        normal(B, N, E),
    ]
    assert_form(function, oracle, arguments)


@pytest.mark.parametrize("method", GRU)
def test_gru(method, monkeypatch):
    monkeypatch.setattr(sys.modules["seqarch.ops.gru"], "ROWS", 1)  # "stepwise" as with many rows
    valid = np.arange(T)[None] < np.array([T, T - 4])[:, None]
    function = lambda *arguments: ops.gru(
        *arguments, starts=STARTS & valid, valid=valid, method=method
    )
    oracle = lambda *arguments: gru(*arguments, STARTS & valid, valid)
    assert_form(
        function, oracle, [normal(B, T, 3 * E), normal(E, 3 * E), normal(3 * E), normal(B, E)]
    )


@pytest.mark.parametrize("method, scale", product(list(LSTM), [1, 20]))
def test_lstm(method, scale):
    valid = np.arange(T)[None] < np.array([T, T - 4])[:, None]
    function = lambda *arguments: ops.lstm(
        *arguments, starts=STARTS & valid, valid=valid, method=method
    )
    oracle = lambda *arguments: lstm(*arguments, STARTS & valid, valid)
    arguments = [scale * normal(B, T, 4 * E), normal(E, 4 * E), normal(B, E), normal(B, E)]
    assert_form(function, oracle, arguments)


@pytest.mark.parametrize("method, name", product(list(ATTENTION), list(RULES)))
def test_attention(method, name):
    segment, rule = np.cumsum(STARTS, axis=1), RULES[name]
    function = lambda *qkv: ops.attention(
        *qkv, q_seg=segment, k_seg=segment, method=method, block=CHUNK, **rule
    )
    oracle = lambda *qkv: attention(*qkv, segment, rule.get("window"), rule.get("causal", True))
    assert_form(function, oracle, [normal(B, T, H, K), normal(B, T, G, K), normal(B, T, G, K)])


@pytest.mark.parametrize("method", ATTENTION)
def test_attention_to_nothing_is_zero(method):
    q, k = (jnp.ones((1, T, heads, K)) for heads in (H, G))
    absent = jnp.full((1, T), -1)
    attend = lambda q: ops.attention(q, k, k, k_pos=absent, method=method, block=CHUNK).sum()
    o, gradient = jax.jit(jax.value_and_grad(attend))(q)
    assert o == 0 and not gradient.any()


@pytest.mark.slow
@pytest.mark.parametrize("method", ATTENTION)
def test_attention_to_a_cache_and_to_new_tokens_merge_to_attention(method):
    """Also where the cache is no multiple of the block, rows are filled differently, one of them
    not at all and one with a new document among its new tokens; and their gradients.
    """
    filled, new = np.array([13, 0, 6]), 11
    q, k, v = (jnp.asarray(normal(3, T + new, heads, K), jnp.float32) for heads in (H, G, G))
    k_pos = np.where(np.arange(T) < filled[:, None], np.arange(T), -1)
    segment = np.pad(np.arange(new)[None] >= np.array([[99], [99], [4]]), ((0, 0), (T, 0))).astype(
        int
    )
    position = np.where(segment[:, T:], np.arange(new) - 4, filled[:, None] + np.arange(new))
    at, rule = Places(position, segment[:, T:]), Rule(True, 12)

    def whole(q, k, v):
        places = dict(
            q_pos=position,
            k_pos=np.concatenate([k_pos, position], 1),
            q_seg=segment[:, T:],
            k_seg=segment,
        )
        return ops.attention(q[:, T:], k, v, **places, window=12, method="materialised")

    def merged(q, k, v):
        q, cache = q[:, T:], [x[:, :T].transpose(0, 2, 1, 3) for x in (k, v)]
        old = cache_attention(q, *cache, at, k_pos, jnp.int32(filled.max()), rule, block=CHUNK)
        new = ATTENTION[method](q, k[:, T:], v[:, T:], at, at, rule, block=CHUNK)
        return merge(old, new).o

    results = [
        jax.jit(jax.value_and_grad(lambda *qkv: (f(*qkv) ** 2).sum(), (0, 1, 2)))(q, k, v)
        for f in (merged, whole)
    ]
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=2e-5), *results)


@pytest.mark.parametrize("block", [CHUNK, CacheBlocks(CHUNK, CHUNK, least=4)])
def test_blocks_of_a_cache_beyond_its_filled_slots_are_not_read(block):
    """Not-a-numbers stand in them, which a product with a weight of zero would not hide."""
    S, filled = 4 * CHUNK, CHUNK + 1
    q, k, v = (
        jnp.asarray(normal(B, T, heads, K), jnp.float32) for heads, T in ((H, 1), (G, S), (G, S))
    )
    k_pos = np.where(np.arange(S) < filled, np.arange(S), -1)[None].repeat(B, 0)
    at = Places(np.full((B, 1), filled), np.zeros((B, 1), int))

    @jax.jit
    def both(q, k, v):
        whole = ops.attention(q, k, v, q_pos=at.position, k_pos=k_pos, method="materialised")
        unread = np.arange(S)[:, None, None] >= 2 * CHUNK
        k, v = (jnp.where(unread, jnp.nan, x).transpose(0, 2, 1, 3) for x in (k, v))
        return cache_attention(q, k, v, at, k_pos, jnp.int32(filled), block=block).o, whole

    assert_allclose(*both(q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    "given, expected",
    [
        ((1, 1, 8, 12, 65536), CacheBlocks(256, 8192, least=8)),
        ((1, 4, 8, 3, 65536), CacheBlocks(256, 8192, least=2)),
        ((1, 1, 1, 12, 4096), CacheBlocks(256, 1024, least=8)),
        ((1, 1, 64, 4, 65536), CacheBlocks(256, 4096, least=8)),
        ((1, 1, 256, 4, 65536), CacheBlocks(256, 1024, least=8)),
        ((1, 1, 4096, 4, 65536), CacheBlocks(256, 1024, least=8)),
        ((2048, 1, 1, 12, 65536), CacheBlocks(256, 1024, least=8)),
        ((2048, 16, 1, 2, 65536), CacheBlocks(256, 256)),
    ],
)
def test_accelerators_read_more_of_a_cache_at_once_for_fewer_queries_and_rows(given, expected):
    assert accelerator_blocks(*given) == expected


@pytest.mark.slow
def test_strong_decay_loses_nothing():
    """Log-decays of -30 and -1e-6 in one chunk: products come from differences of sums, never from
    quotients.
    """
    g = np.where(np.arange(T) % 5 == 0, -30.0, -1e-6)[None, :, None] * np.ones((B, T, H))
    q, k, v = normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V)
    expected = linear_attention(q, k, v, g, np.zeros((B, H, K, V)), np.zeros((B, T), bool))[0]
    for method in LINEAR_ATTENTION:
        attend = jax.jit(partial(ops.linear_attention, method=method, chunk=CHUNK))
        given, _ = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v, g)))
        assert_allclose(given, expected, atol=5e-5 * np.abs(expected).max())


def test_small_weights_of_linear_attention_survive_bfloat16():
    x = jnp.array([-20.0, -6.0, -4.0, -0.5, 0.0, 3.0])
    expected = np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    assert_allclose(np.asarray(elu(x.astype(jnp.bfloat16)), np.float32), expected, rtol=0.01)
    assert_allclose(jax.grad(lambda x: elu(x).sum())(x), np.minimum(expected, 1), rtol=1e-5)


def test_rope_depends_on_distance_alone():
    q, k = jnp.asarray(normal(1, 1, 1, 8)), jnp.asarray(normal(1, 1, 1, 8))
    rope = jax.jit(ops.rope)
    at = lambda x, position: np.asarray(rope(x, np.array([[position]])))
    scores = [(at(q, 3 + shift) * at(k, 1 + shift)).sum() for shift in (0, 1, 100)]
    assert_allclose(scores, scores[0], rtol=1e-4)
    assert abs((at(q, 3) * at(k, 2)).sum() - scores[0]) > 1e-3


def test_an_unknown_form_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'chunked'"):
        ops.linear_scan(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), method="chunkd")
