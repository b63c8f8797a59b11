"""Linear attention: a matrix-valued state, written by outer products and read by queries.

    S_t = exp(g_t) S_{t-1} + k_t v_t^T,    o_t = q_t S_t

It has no feature map, scaling or normaliser. The decay g is per head or per key channel. Within a
chunk it is computed as attention with a decay mask.

Source: Katharopoulos et al. 2020, "Transformers are RNNs", equations 16-20; Dao and Gu 2024,
"Transformers are SSMs", section 6 (decay per head); Yang et al. 2023, "Gated linear attention
transformers with hardware-efficient training", section 4 (decay per key channel).
"""

from typing import NamedTuple

import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.numerics import cumsum, dot, segments, spread
from seqarch.types import Array, Bool, Float

FORMS = affine.FORMS


class Chunk(NamedTuple):
    """The arguments of `linear_attention` for some tokens."""

    q: Float[Array, "B C H K"]
    k: Float[Array, "B C H K"]
    v: Float[Array, "B C H V"]
    log_decay: Float[Array, "B C H *K"] | None
    starts: Bool[Array, "B C"] | None


def linear_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    log_decay: Float[Array, "B T H *K"] | None = None,
    state: Float[Array, "B H K V"] | None = None,
    *,
    starts: Bool[Array, "B T"] | None = None,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      q: queries.
      k: keys.
      v: values.
      log_decay: g <= 0, per head or per key channel; None: no decay.
      state: before the first token; None: zeros.
      starts: whether the state is forgotten before a token.
      method: a name in FORMS, or "auto".
      chunk: tokens of a chunk.
    """
    if state is None:
        state = jnp.zeros((q.shape[0], *q.shape[2:], v.shape[-1]), jnp.float32)
    tokens = Chunk(q, k, v, log_decay, starts)
    no_decay = None if log_decay is None else 0.0
    no_start = None if starts is None else False
    identity = Chunk(0.0, 0.0, 0.0, no_decay, no_start)
    recurrence = affine.Recurrence(_summarise, _read, identity)
    return FORMS.pick(method)(recurrence, tokens, state, chunk=chunk)


def _summarise(c: Chunk) -> affine.Affine:
    decay, k = jnp.ones((1, 1, 1, 1)), c.k
    if c.log_decay is not None:
        g = cumsum(c.log_decay)
        decay = jnp.exp(g[:, -1]).reshape(g.shape[0], g.shape[2], -1, 1)
        k = _decayed(k, g[:, -1:] - g)
    if c.starts is not None:
        segment = segments(c.starts)
        decay = jnp.where((segment[:, -1] == 0)[:, None, None, None], decay, 0.0)
        k = jnp.where((segment == segment[:, -1:])[:, :, None, None], k, 0.0)
    return affine.Affine(decay, dot("bshk,bshv->bhkv", k, c.v))


def _read(c: Chunk, state: Float[Array, "B H K V"]) -> Float[Array, "B C H V"]:
    q, scores = c.q, _scores(c)
    visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    if c.log_decay is not None:
        q = _decayed(q, cumsum(c.log_decay))
    if c.starts is not None:
        segment = segments(c.starts)
        q = jnp.where((segment == 0)[:, :, None, None], q, 0.0)
        visible = visible & (segment[:, :, None] == segment[:, None, :])[:, None]
    scores = jnp.where(visible, scores, 0.0).astype(c.v.dtype)
    o = dot("bhts,bshv->bthv", scores, c.v) + dot("bthk,bhkv->bthv", q.astype(jnp.float32), state)
    return o.astype(c.v.dtype)


def _scores(c: Chunk) -> Float[Array, "B H C C"]:
    """Returns q_t . k_s exp(g_{s+1} + ... + g_t), by differences of cumulative sums of g."""
    if c.log_decay is None:
        return dot("bthk,bshk->bhts", c.q, c.k)
    g = cumsum(c.log_decay)
    later = jnp.triu(jnp.ones((g.shape[1],) * 2, bool), 1)
    if g.ndim == 3:
        g, size = jnp.moveaxis(g, 1, 2), g.shape[1]
        difference = spread(g, size) - jnp.swapaxes(spread(g, size), -1, -2)
        decay = jnp.exp(jnp.where(later[None, None], 0.0, difference))
        return dot("bthk,bshk->bhts", c.q, c.k) * decay
    difference = jnp.where(later[None, :, :, None, None], 0.0, g[:, :, None] - g[:, None])
    return dot("bthk,bshk,btshk->bhts", c.q, c.k, jnp.exp(difference))


def _decayed(x: Float[Array, "B C H K"], g: Float[Array, "B C H *K"]) -> Float[Array, "B C H K"]:
    factor = jnp.exp(g)
    return (x * (spread(factor, x.shape[-1]) if factor.ndim == 3 else factor)).astype(x.dtype)
