"""Latent attention against the paper's equations in float64, in both of its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from seqarch.errors import UserError
from seqarch.mixers.mla import MLA
from tests.mixers.test_attention import rotated
from tests.ops.test_ops import STARTS, B, T, assert_form, normal

DIM, H, K, RANK, ROPE = 8, 2, 4, 5, 2
OPTIONS = dict(heads=H, kv_rank=RANK, rope_dim=ROPE, block=8)


def normed(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def document(mixer, x):
    """Equations 9-19, with keys and values of every head."""
    W = {
        name: np.asarray(getattr(mixer, name).kernel[...], np.float64)
        for name in ("q", "down", "up_k", "up_v", "out", *(["down_q"] if mixer.down_q else []))
    }
    keys, values, outputs = [], [], []
    for t, token in enumerate(x):
        c_q = normed(token @ W["down_q"]) if "down_q" in W else token
        q = (c_q @ W["q"]).reshape(H, K + ROPE)
        down = token @ W["down"]
        c, k_rope = normed(down[:RANK]), rotated(down[RANK:], t)
        k, values = (c @ W["up_k"]).reshape(H, K), [*values, (c @ W["up_v"]).reshape(H, K)]
        keys.append([np.concatenate([k[h], k_rope]) for h in range(H)])
        y = []
        for h in range(H):
            turned = np.concatenate([q[h, :K], rotated(q[h, K:], t)])
            scores = np.array([key[h] @ turned for key in keys]) / np.sqrt(K + ROPE)
            weights = np.exp(scores - scores.max())
            y.append(weights @ np.array([value[h] for value in values]) / weights.sum())
        outputs.append(np.concatenate(y) @ W["out"])
    return outputs


def oracle(mixer, x):
    begins, y = STARTS | (np.arange(T) == 0), np.zeros_like(x)
    for b in range(B):
        edges = [*np.flatnonzero(begins[b]), T]
        for first, end in zip(edges, edges[1:]):
            y[b, first:end] = document(mixer, x[b, first:end])
    return y


@pytest.mark.parametrize("q_rank", [None, 3])
def test_mla_of_a_call_is_the_naive_form(q_rank):
    mixer = MLA(DIM, q_rank=q_rank, **OPTIONS, rngs=nnx.Rngs(0))
    function = lambda x: mixer(x, jnp.asarray(STARTS))
    assert_form(function, lambda x: oracle(mixer, x), [normal(B, T, DIM)])


@pytest.mark.slow
def test_mla_of_a_cache_is_the_absorbed_form():
    """A prompt in two parts and a step, with their gradients."""
    mixer = MLA(DIM, q_rank=3, **OPTIONS, rngs=nnx.Rngs(0))

    def continued(x):
        y, state = mixer.prefill(x[:, :5], mixer.init_state(B, T))
        z, state = mixer.prefill(x[:, 5:-1], state)
        last, _ = mixer.step(x[:, -1], state)
        return jnp.concatenate([y, z, last[:, None]], axis=1)

    whole = lambda x: np.stack([np.array(document(mixer, row)) for row in x])
    assert_form(continued, whole, [normal(B, T, DIM)])


def test_the_cache_has_rank_and_rope_channels_a_token():
    state = jax.eval_shape(lambda: MLA(DIM, **OPTIONS, rngs=nnx.Rngs(0)).init_state(3, 7))
    assert state.latent.shape == (3, 1, 7, RANK + ROPE)


def test_defaults_are_half_the_width_and_half_a_head():
    mixer = MLA(32, heads=4, rngs=nnx.Rngs(0))
    assert (mixer.rank, mixer.rope_dim) == (16, 4)
    assert_allclose(mixer.norm.scale[...], 1)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(heads=3), "does not divide into 3 heads"),
        (dict(kv_rank=0), "kv_rank is 0"),
        (dict(q_rank=0), "q_rank is 0"),
        (dict(rope_dim=3), "rope_dim is 3"),
        (dict(rope=0.0), "rope is 0.0"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        MLA(DIM, **options, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
