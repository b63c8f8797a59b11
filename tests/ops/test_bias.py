"""Biases of scores in every form and in a cache: values and gradients against loops in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqarch import ops
from seqarch.ops.attention import FORMS
from seqarch.ops.bias import buckets, cumulate, difference
from seqarch.ops.cache_attention import CacheBlocks, cache_attention
from seqarch.ops.online_softmax import merge
from seqarch.ops.visibility import Places, Rule
from tests.grids import product
from tests.ops.test_ops import CHUNK, STARTS, B, G, H, K, T, V, assert_form, normal

FAR = 3  # distances beyond which a bias by distance is the same
SEGMENT = np.cumsum(STARTS, axis=1)


def attention(q, k, v, log_gate, alibi, relative=None):
    o = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(B, T, H):
        scores, group = [], h // (H // G)
        seen = [s for s in range(t + 1) if SEGMENT[b, s] == SEGMENT[b, t]]
        for s in seen:
            bias = log_gate[b, s + 1 : t + 1, h].sum()
            if alibi:
                bias -= 2.0 ** (-8 * (h + 1) / H) * (t - s)
            if relative is not None:
                bias += relative[h, max(s - t, -FAR) + FAR]
            scores.append(k[b, s, group] @ q[b, t, h] / np.sqrt(K) + bias)
        weights = np.exp(np.array(scores) - max(scores))
        o[b, t, h] = weights @ v[b, seen, group] / weights.sum()
    return o


@pytest.mark.parametrize("method, gated", product(list(FORMS), [True, False]))
def test_biases(method, gated):
    def function(q, k, v, *log_gate):
        how = dict(q_seg=SEGMENT, k_seg=SEGMENT, method=method, block=CHUNK, alibi=True)
        return ops.attention(q, k, v, log_gate=log_gate[0] if gated else None, **how)

    def oracle(q, k, v, *log_gate):
        return attention(q, k, v, log_gate[0] if gated else np.zeros((B, T, H)), True)

    log_gate = -np.log1p(np.exp(normal(B, T, H)))
    arguments = [normal(B, T, H, K), normal(B, T, G, K), normal(B, T, G, V)]
    assert_form(function, oracle, [*arguments, log_gate] if gated else arguments)


@pytest.mark.parametrize("method", FORMS)
def test_a_bias_by_distance(method):
    def function(q, k, v, relative):
        how = dict(q_seg=SEGMENT, k_seg=SEGMENT, method=method, block=CHUNK)
        return ops.attention(q, k, v, relative=relative, **how)

    def oracle(q, k, v, relative):
        return attention(q, k, v, np.zeros((B, T, H)), False, relative)

    arguments = normal(B, T, H, K), normal(B, T, G, K), normal(B, T, G, V), normal(H, 2 * FAR + 1)
    assert_form(function, oracle, [*arguments])


def test_buckets_are_those_of_t5():
    """By the loop of its code, for one distance at a time."""

    def bucket(distance: int, count: int, causal: bool) -> int:
        first, size = 0, max(-distance, 0)
        if not causal:
            count //= 2
            first, size = count * (distance > 0), abs(distance)
        exact = count // 2
        if size < exact:
            return first + size
        large = math.log(size / exact) / math.log(128 / exact) * (count - exact)
        return first + min(exact + int(large + 1e-9), count - 1)

    for count, causal in ((32, True), (32, False), (8, True), (8, False)):
        found = buckets(count, causal)
        expected = [bucket(distance, count, causal) for distance in range(-128, 129)]
        assert found.tolist() == expected
        assert set(found) == set(range(count)) - ({count // 2} if not causal else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, cached",
    [("materialised", 4), ("blockwise", 4), ("blockwise", CacheBlocks(4, 5, least=32))],
)
def test_attention_with_biases_to_a_cache_and_to_new_tokens_merges_to_attention(method, cached):
    """The last tokens of a row attend to the first ones in a cache and to each other."""
    filled, rule = 11, Rule()
    position = np.broadcast_to(np.arange(T)[None], (B, T))
    at = Places(position[:, filled:], np.zeros((B, T - filled), int))

    def merged(q, k, v, log_gate, relative):
        old, new = slice(None, filled), slice(filled, None)
        fade = jnp.flip(jnp.cumsum(jnp.flip(log_gate[:, old], 1), 1), 1) - log_gate[:, old]
        gates = cumulate(log_gate[:, new])
        cache = [x[:, old].swapaxes(1, 2) for x in (k, v)]
        given = q[:, new], *cache, at, position[:, old], jnp.int32(filled), rule
        how = dict(alibi=True, relative=relative)
        a = cache_attention(*given, block=cached, gate=gates, fade=fade.swapaxes(1, 2), **how)
        form = FORMS[method]
        b = form(
            q[:, new], k[:, new], v[:, new], at, at, rule, block=4, gates=(gates, gates), **how
        )
        return merge(a, b).o

    def whole(q, k, v, log_gate, relative):
        how = dict(alibi=True, log_gate=log_gate, relative=relative, method="materialised")
        o = ops.attention(q, k, v, **how)
        return o[:, filled:]

    shapes = (B, T, H, K), (B, T, G, K), (B, T, G, V), (B, T, H), (H, 2 * FAR + 1)
    *qkv, log_gate, relative = (jnp.asarray(normal(*shape), jnp.float32) for shape in shapes)
    arguments = *qkv, jax.nn.log_sigmoid(log_gate), relative
    results = [
        jax.jit(jax.value_and_grad(lambda *x: (f(*x) ** 2).sum(), (0, 1, 2, 3, 4)))(*arguments)  # noqa: B023
        for f in (merged, whole)
    ]
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=2e-5), *results)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_cumulative_gates_keep_differences_of_neighbours(size):
    log_gate = -size * np.abs(normal(1, 200_000, 1)).astype(np.float32)
    gates = jax.jit(cumulate)(log_gate)
    exact = np.cumsum(log_gate.astype(np.float64), axis=1)
    for distance in (1, 10, 1000):
        later, earlier = (
            jax.tree.map(lambda x: x[:, at], gates)  # noqa: B023
            for at in (slice(distance, None), slice(None, -distance))
        )
        expected = exact[:, distance:] - exact[:, :-distance]
        # The bound is the rounding of the difference itself, and of the fractions.
        assert_allclose(difference(later, earlier), expected, rtol=2e-7, atol=5e-6)
