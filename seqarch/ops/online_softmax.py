"""Softmax averages of values that absorb one block of keys after the other, and can be merged.

Online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, "FlashAttention",
algorithm 1): a running maximum m, denominator l and numerator o.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot, spread
from seqarch.types import Array, Bool, DTypeLike, Float

NOTHING = -1e30  # a score below every real one; finite, so that differences of it are numbers


class Softmax(NamedTuple):
    """The carry of an online softmax.

    o: the numerator, relative to exp(m)
    l: the denominator, relative to exp(m)
    m: the maximum of the scores
    """

    o: Float[Array, "B G N V"]
    l: Float[Array, "B G N"]
    m: Float[Array, "B G N"]


class Partial(NamedTuple):
    """Attention to some of the keys, which can be merged with attention to others.

    o: the average of the values; 0 where no key is visible
    log_total: the log of its denominator; NOTHING where no key is visible; None: left out, as the
      rule allowed (`seqarch.ops.visibility`)
    """

    o: Float[Array, "B T H V"]
    log_total: Float[Array, "B T H"] | None


def merge(*parts: Partial) -> Partial:
    """Returns attention to the keys of all `parts`, none of which is in two of them."""
    return reduce(_merge, parts)


def _merge(a: Partial, b: Partial) -> Partial:
    share = spread(jax.nn.sigmoid(b.log_total - a.log_total), a.o.shape[-1])
    o = (a.o + share * (b.o - a.o)).astype(a.o.dtype)
    return Partial(o, jnp.logaddexp(a.log_total, b.log_total))


def as_heads(*parts: Partial) -> Partial:
    """Returns attention to keys of several kinds, each as heads of its own."""
    return Partial(*(jnp.concatenate(each, axis=2) for each in zip(*parts, strict=True)))


def empty(rows: tuple[int, ...], channels: int) -> Softmax:
    """Returns the carry of `rows` (B, G, N) with V `channels`, before the first block of keys."""
    o = jnp.zeros((*rows, channels), jnp.float32)
    return Softmax(o, jnp.zeros(rows), jnp.full(rows, NOTHING))


def absorb(
    running: Softmax,
    scores: Float[Array, "B G N S"],
    v: Float[Array, "B G S V"],
    seen: Bool[Array, "B N S"],
) -> Softmax:
    """Returns the carry after a block of keys with these `scores`, of which some are `seen`."""
    scores = jnp.where(seen[:, None], scores, NOTHING)
    m = jnp.maximum(running.m, scores.max(-1))
    weights = jnp.where(seen[:, None], jnp.exp(scores - m[..., None]), 0.0)
    fade = jnp.exp(running.m - m)
    l = running.l * fade + dot("bgns,s->bgn", weights, jnp.ones(v.shape[2]))
    o = running.o * fade[..., None] + dot("bgns,bgsv->bgnv", weights.astype(v.dtype), v)
    return Softmax(o, l, m)


def finish(running: Softmax, dtype: DTypeLike) -> tuple[Array, Array]:
    """Returns the average in `dtype` and the log of its denominator, as in a Partial."""
    some = running.l > 0
    total = jnp.where(some, running.l, 1.0)
    log_total = jnp.where(some, running.m + jnp.log(total), NOTHING)
    return (running.o / total[..., None]).astype(dtype), log_total
