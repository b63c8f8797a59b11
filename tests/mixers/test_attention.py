"""The options of attention against loops in float64: values, gradients, documents and states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from seqarch.errors import UserError
from seqarch.mixers.attention import Attention
from seqarch.ops.attention import FORMS
from seqarch.ops.bias import FARTHEST, buckets
from tests.grids import product, slow_but
from tests.ops.test_ops import STARTS, B, T, assert_form, normal, sigmoid

DIM, H = 8, 2
OPTIONS = {
    "sink": dict(sink=2, window=3),
    "sink_alone_in_window": dict(sink=3, window=1, kv_heads=1),
    "sink_alibi": dict(sink=2, window=4, rope=None, alibi=True),
    "gated": dict(gated=True, kv_heads=1),
    "forget": dict(forget=True, kv_heads=1),
    "forget_sink_gated": dict(forget=True, gated=True, sink=1, window=4),
    "alibi": dict(rope=None, alibi=True),
    "relative": dict(rope=None, relative=8, kv_heads=1),
}


def rotated(x, position):
    half = x.shape[-1] // 2
    angle = position * 10_000.0 ** (-np.arange(half) / half)
    a, b, cos, sin = x[..., :half], x[..., half:], np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def document(mixer, x, options):
    """Decodes a document token by token; the cache has unrotated keys, and positions are ranks."""
    W = {
        name: np.asarray(getattr(mixer, name).kernel[...], np.float64)
        for name in ("q", "k", "v", "out", *(n for n in ("gate", "forget") if getattr(mixer, n)))
    }
    K, sink, window = DIM // H, options.get("sink", 0), options.get("window") or len(x)
    cache, outputs = [], []
    for token in x:
        q, k, v = ((token @ W[name]).reshape(-1, K) for name in "qkv")
        if "forget" in W:
            log_gate = np.log(sigmoid(token @ W["forget"]))
            cache = [(k, v, fade + log_gate) for k, v, fade in cache]
        cache = [*cache, (k, v, np.zeros(H))]
        cache = [*cache[:sink], *cache[sink:][-window:]]
        last, y = len(cache) - 1, []
        for h in range(H):
            scores, values = [], []
            for rank, (k, v, fade) in enumerate(cache):
                k, v = (a[h * len(a) // H] for a in (k, v))
                if "rope" in options:
                    score = q[h] @ k / np.sqrt(K)
                else:
                    score = rotated(q[h], last) @ rotated(k, rank) / np.sqrt(K)
                if "relative" in options:
                    bucket = buckets(options["relative"], True)[FARTHEST - (last - rank)]
                    score = q[h] @ k + float(mixer.table[h, bucket])
                if "alibi" in options:
                    score = score - 2.0 ** (-8 * (h + 1) / H) * (last - rank)
                scores.append(score + fade[h])
                values.append(v)
            weights = np.exp(np.array(scores) - max(scores))
            y.append(weights @ np.array(values) / weights.sum())
        gate = sigmoid(token @ W["gate"]) if "gate" in W else 1.0
        outputs.append(gate * np.concatenate(y) @ W["out"])
    return outputs


def oracle(mixer, x, options):
    begins = STARTS.copy()
    begins[:, 0] = True
    y = np.zeros_like(x)
    for b in range(B):
        edges = [*np.flatnonzero(begins[b]), T]
        for first, end in zip(edges, edges[1:]):
            y[b, first:end] = document(mixer, x[b, first:end], options)
    return y


@pytest.mark.parametrize("name", slow_but({"forget_sink_gated", "relative"}, OPTIONS))
def test_options_of_attention(name):
    options = OPTIONS[name]
    mixer = Attention(DIM, heads=H, block=8, **options, rngs=nnx.Rngs(0))
    function = lambda x: mixer(x, jnp.asarray(STARTS))
    assert_form(function, lambda x: oracle(mixer, x, options), [normal(B, T, DIM)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sink_alone_in_window", "sink_alibi"])
def test_options_of_attention_from_a_state(name):
    """A prompt in two parts, of which the second has two lengths, then steps.

    The law says that states continue calls, of the other options too.
    """
    options, cut = OPTIONS[name], 6
    mixer = Attention(DIM, heads=H, block=8, **options, rngs=nnx.Rngs(0))
    x, lengths = normal(B, T, DIM), np.array([5, 9])
    given, prefill = jnp.asarray(x, jnp.float32), jax.jit(Attention.prefill)
    state = mixer.init_state(B, 2 * T)
    for part, count in ((given[:, :-cut], np.full(B, cut)), (given[:, cut:], lengths)):
        y, state = prefill(mixer, part, state, None, jnp.asarray(count))
    after, _ = jax.jit(Attention.step)(mixer, given[:, -1], state)
    for b, length in enumerate(lengths):
        expected = document(mixer, [*x[b, : cut + length], x[b, -1]], options)
        found = np.concatenate([y[b, :length], after[b, None]])
        assert_allclose(found, expected[cut:], atol=1e-5)


@pytest.mark.parametrize("method, options", product(list(FORMS), [{}, dict(rope=None, relative=8)]))
def test_attention_both_ways_sees_all_tokens_but_padding(method, options):
    how = dict(method=method, block=4, causal=False, **options)
    mixer, lengths = Attention(DIM, heads=H, **how, rngs=nnx.Rngs(0)), np.array([9, T])
    x, K = normal(B, T, DIM), DIM // H
    call = jax.jit(lambda mixer, x, lengths: mixer(x, lengths=lengths))
    found = call(mixer, jnp.asarray(x, jnp.float32), jnp.asarray(lengths))
    W = {n: np.asarray(getattr(mixer, n).kernel[...], np.float64) for n in ("q", "k", "v", "out")}
    for b, length in enumerate(lengths):
        q, k, v = (np.reshape(x[b, :length] @ W[name], (length, H, K)) for name in "qkv")
        y = np.zeros((length, H, K))
        for t, h in np.ndindex(length, H):
            scores = []
            for s in range(length):
                if options:
                    bucket = buckets(8, False)[FARTHEST + s - t]
                    scores.append(q[t, h] @ k[s, h] + float(mixer.table[h, bucket]))
                else:
                    scores.append(rotated(q[t, h], t) @ rotated(k[s, h], s) / np.sqrt(K))
            weights = np.exp(np.array(scores) - max(scores))
            y[t, h] = weights @ v[:, h] / weights.sum()
        assert_allclose(found[b, :length], y.reshape(length, -1) @ W["out"], atol=1e-5)


def test_forget_gates_keep_their_sums_over_many_steps():
    """Gates of about e^-20 per token, long after the first: neighbours keep their distance."""
    mixer = Attention(DIM, heads=H, window=2, forget=True, rope=None, rngs=nnx.Rngs(0))
    mixer.forget.bias[...] = jnp.full(H, -20.0)
    x, call = jnp.asarray(normal(1, 5000, DIM), jnp.float32), jax.jit(type(mixer).__call__)
    assert_allclose(call(mixer, x)[:, -9:], call(mixer, x[:, -10:])[:, -9:], atol=1e-5)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(heads=3), "heads 3"),
        (dict(window=0), "window is 0"),
        (dict(sink=2), "sink is 2 and window is None"),
        (dict(sink=-1, window=4), "sink is -1"),
        (dict(sink=2, window=2**31 - 2), "below 2.31"),
        (dict(kv_heads=-2), "kv_heads -2"),
        (dict(rope=None, rope_scaling="linear:2"), "give the base that it scales"),
        (dict(rope=1.0), "give a base above 1"),
        (dict(rope_scaling="llama3:8:4:4:64"), "give LOW below HIGH"),
        (dict(qk_norm=True, norm_eps=-1.0), "norm_eps is -1.0; give a number above 0"),
        (dict(alibi=True), "give rope=None with alibi"),
        (dict(relative=32), "give rope=None, alibi=False and sink=None with relative"),
        (dict(relative=6, rope=None), "relative is 6; give a multiple of 4 up to 256"),
        (dict(causal=False, window=3), "give window=None and forget=False with causal=False"),
    ],
)
def test_what_cannot_be_combined_is_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        Attention(DIM, **options, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
