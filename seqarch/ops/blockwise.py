"""Attention by blocks of queries and keys, in O(T) memory; blocks without visible keys are skipped.

Online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, "FlashAttention",
algorithm 1): a running maximum m, denominator l and numerator o absorb one block of keys after the
other. The backward pass computes the scores again from the saved log of the denominator
(FlashAttention, algorithm 4).

In this module queries are [B, G, N, K] and keys [B, G, S, K]: the R query heads that share one of G
key/value heads are N = R T queries of it. With two axes, R and T, XLA on CPU would transpose every
block of keys for its product.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot, spread
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array, Bool, DTypeLike, Float, Int

NOTHING = -1e30  # a score below every real one; finite, so that differences of it are numbers


class Softmax(NamedTuple):
    """The carry of an online softmax.

    o: the numerator, relative to exp(m)
    l: the denominator, relative to exp(m)
    m: the maximum of the scores
    """

    o: Float[Array, "B G N K"]
    l: Float[Array, "B G N"]
    m: Float[Array, "B G N"]


class Partial(NamedTuple):
    """Attention to some of the keys, which can be merged with attention to others.

    o: the average of the values; 0 where no key is visible
    log_total: the log of its denominator; NOTHING where no key is visible
    """

    o: Float[Array, "B T H K"]
    log_total: Float[Array, "B T H"]


def merge(a: Partial, b: Partial) -> Float[Array, "B T H K"]:
    """Returns the average over the keys of both."""
    share = spread(jax.nn.sigmoid(b.log_total - a.log_total), a.o.shape[-1])
    return (a.o + share * (b.o - a.o)).astype(a.o.dtype)


def empty(q: Array) -> Softmax:
    """Returns the carry before the first block of keys."""
    rows = q.shape[:-1]
    return Softmax(jnp.zeros(q.shape, jnp.float32), jnp.zeros(rows), jnp.full(rows, NOTHING))


def absorb(running: Softmax, q: Array, k: Array, v: Array, seen: Bool[Array, "B N S"]) -> Softmax:
    """Returns the carry after a block of keys; `q` is already scaled by 1 / sqrt(K)."""
    scores = jnp.where(seen[:, None], dot("bgnk,bgsk->bgns", q, k), NOTHING)
    m = jnp.maximum(running.m, scores.max(-1))
    weights = jnp.where(seen[:, None], jnp.exp(scores - m[..., None]), 0.0)
    fade = jnp.exp(running.m - m)
    l = running.l * fade + dot("bgns,s->bgn", weights, jnp.ones(k.shape[2]))
    o = running.o * fade[..., None] + dot("bgns,bgsk->bgnk", weights.astype(v.dtype), v)
    return Softmax(o, l, m)


def finish(running: Softmax, dtype: DTypeLike) -> tuple[Array, Array]:
    """Returns the average in `dtype` and the log of its denominator, as in a Partial."""
    some = running.l > 0
    total = jnp.where(some, running.l, 1.0)
    log_total = jnp.where(some, running.m + jnp.log(total), NOTHING)
    return (running.o / total[..., None]).astype(dtype), log_total


def blockwise(
    q: Array, k: Array, v: Array, at_q: Places, at_k: Places, rule: Rule, *, block: int
) -> Partial:
    """Returns attention of q [B,T,H,K] to k, v [B,S,G,K].

    It is the form "blockwise" of `seqarch.ops.attention`.
    """
    queries, at_queries = split_queries(q, at_q, k.shape[2], block)
    k, v = (_blocks(x.transpose(0, 2, 1, 3), block) for x in (k, v))
    trips = _trips(len(k), k.shape[-2], rule) if at_q is at_k else (len(k), len(queries))
    return join_queries(*_attend(queries, k, v, at_queries, _cut(at_k, block), rule, trips), like=q)


def split_queries(
    q: Float[Array, "B T H K"], at: Places, groups: int, block: int
) -> tuple[Array, Places]:
    """Returns blocks of scaled queries [M,B,G,N,K], N = R C, and their places [M,B,N].

    Args:
      q: queries.
      at: their places.
      groups: G.
      block: tokens C of a block.
    """
    B, T, H, K = q.shape
    grouped = q.reshape(B, T, groups, H // groups, K).transpose(0, 2, 3, 1, 4)
    blocks = _blocks(grouped * jnp.asarray(K**-0.5, q.dtype), block)
    at = jax.tree.map(lambda x: jnp.tile(x, (1, 1, H // groups)), _cut(at, block))
    return blocks.reshape(*blocks.shape[:3], -1, K), at


def join_queries(
    o: Float[Array, "M B G N K"], log_total: Float[Array, "M B G N"], like: Float[Array, "B T H K"]
) -> Partial:
    """Returns the results of the blocks of `split_queries` as one, without the padding."""
    (M, B, G, _), (_, T, H, _) = log_total.shape, like.shape

    def join(x: Array) -> Array:
        x = x.reshape(M, B, G, H // G, -1, *x.shape[4:])
        x = jnp.moveaxis(x, (1, 0, 4), (0, 1, 2))  # [B, M, C, G, R, ...]
        return x.reshape(B, -1, H, *x.shape[5:])[:, :T]

    return Partial(join(o), join(log_total))


def _blocks(x: Array, block: int) -> Array:
    """Returns x [..., T, K] as blocks [M, ..., C, K], padded; C is at most T."""
    block = max(1, min(block, x.shape[-2]))
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, -x.shape[-2] % block), (0, 0)])
    return jnp.moveaxis(x.reshape(*x.shape[:-2], -1, block, x.shape[-1]), -3, 0)


def _cut(at: Places, block: int) -> Places:
    """Returns the places of blocks [M, B, C], with padding marked as absent."""
    block = max(1, min(block, at.position.shape[1]))
    pad = [(0, 0), (0, -at.position.shape[1] % block)]

    def cut(x: Array, fill: int) -> Array:
        padded = jnp.pad(x, pad, constant_values=fill)
        return jnp.moveaxis(padded.reshape(x.shape[0], -1, block), 1, 0)

    return Places(cut(at.position, -1), cut(at.segment, -1))


def _spans(at_q: Places, at_k: Places, rule: Rule) -> tuple[Array, Array]:
    """Returns the key blocks that each query block may see, and the query blocks that may see each.

    Both are ranges [first, end). They follow from the extremes of positions and segments in the
    blocks, which costs O(blocks^2) instead of O(T S).
    """

    def extremes(x: Array) -> tuple[Array, Array]:
        return jnp.where(x >= 0, x, jnp.iinfo(jnp.int32).max).min(-1), x.max(-1)

    q = [x[:, None] for x in (*extremes(at_q.position), *extremes(at_q.segment))]
    k = [x[None] for x in (*extremes(at_k.position), *extremes(at_k.segment))]
    (q_low, q_high, qs_low, qs_high), (k_low, k_high, ks_low, ks_high) = q, k
    needed = (k_high >= 0) & (q_high >= 0) & (ks_low <= qs_high) & (ks_high >= qs_low)
    if rule.causal:
        needed &= k_low <= q_high
        if rule.window is not None:
            needed &= q_low - k_high < rule.window
    needed = needed.any(-1)
    return _ranges(needed), _ranges(needed.T)


def _ranges(needed: Array) -> Int[Array, "M 2"]:
    """Returns each row's first True and the place after its last; (0, 0) where there is none."""
    some = needed.any(1)
    first = jnp.where(some, needed.argmax(1), 0)
    end = jnp.where(some, needed.shape[1] - needed[:, ::-1].argmax(1), 0)
    return jnp.stack([first, end], axis=1)


def _trips(blocks: int, size: int, rule: Rule) -> tuple[float, float]:
    """Returns the mean numbers of key blocks per query block, and of query blocks per key block.

    They are those of a sequence that is one document, in blocks of `size` tokens.
    """
    reach = blocks if rule.window is None else 1 + (rule.window + size - 2) // size
    seen = sum(min(i + 1, reach) for i in range(blocks)) / blocks if rule.causal else blocks
    return seen, seen


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    q: Array, k: Array, v: Array, at_q: Places, at_k: Places, rule: Rule, trips: tuple[float, float]
) -> tuple[Array, Array]:
    """Returns the averages [M,B,G,N,K] and the logs of their denominators [M,B,G,N].

    `trips` is what `_trips` returns, and goes to seqarch.flops.
    """
    return _attend_forward(q, k, v, at_q, at_k, rule, trips)[0]


def _attend_forward(q, k, v, at_q, at_k, rule, trips):
    spans, _ = _spans(at_q, at_k, rule)

    def query_block(inputs):
        q, at_q, (first, end) = inputs

        def body(j, running):
            seen = visible(at_q, jax.tree.map(lambda x: x[j], at_k), rule)
            return absorb(running, q, k[j], v[j], seen)

        with jax.named_scope(f"at_most_{trips[0]}_trips"):  # tells seqarch.flops
            return finish(jax.lax.fori_loop(first, end, body, empty(q)), q.dtype)

    o, log_total = jax.lax.map(query_block, (q, at_q, (spans[:, 0], spans[:, 1])))
    return (o, log_total), (q, k, v, at_q, at_k, o, log_total)


def _attend_backward(rule, trips, saved, cotangents):
    q, k, v, at_q, at_k, o, log_total = saved
    do, d_log_total = cotangents
    _, spans = _spans(at_q, at_k, rule)
    along = dot("mbgnk,mbgnk->mbgn", do, o) - d_log_total
    log_total = jnp.where(log_total > NOTHING, log_total, -NOTHING)  # weight 0 where none is seen

    def key_block(dq, inputs):
        k, v, at_k, (first, end) = inputs

        def body(i, carry):
            dq, dk, dv = carry
            seen = visible(jax.tree.map(lambda x: x[i], at_q), at_k, rule)[:, None]
            scores = jnp.where(seen, dot("bgnk,bgsk->bgns", q[i], k), NOTHING)
            weights = jnp.exp(scores - spread(log_total[i], k.shape[2]))
            dv = dv + dot("bgns,bgnk->bgsk", weights.astype(v.dtype), do[i])
            d_weights = dot("bgnk,bgsk->bgns", do[i], v)
            d_scores = (weights * (d_weights - spread(along[i], k.shape[2]))).astype(q.dtype)
            dk = dk + dot("bgns,bgnk->bgsk", d_scores, q[i])
            return dq.at[i].add(dot("bgns,bgsk->bgnk", d_scores, k)), dk, dv

        zero = jnp.zeros(k.shape, jnp.float32)
        with jax.named_scope(f"at_most_{trips[1]}_trips"):
            dq, dk, dv = jax.lax.fori_loop(first, end, body, (dq, zero, zero))
        return dq, (dk.astype(k.dtype), dv.astype(v.dtype))

    blocks = k, v, at_k, (spans[:, 0], spans[:, 1])
    dq, (dk, dv) = jax.lax.scan(key_block, jnp.zeros(q.shape, jnp.float32), blocks)
    return dq.astype(q.dtype), dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)
