"""Attention by blocks of queries and keys: O(T) memory, and no work for blocks that hold nothing
visible.

Online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, "FlashAttention",
algorithm 1): a running maximum m, denominator l and numerator o absorb one block of keys after the
other. The backward pass computes the scores again from the saved log of the denominator
(FlashAttention, algorithm 4).

Queries are [B, G, N, K] and keys [B, G, S, K] in here: the R query heads that share one of G
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
    """A softmax average in the making: numerator o, denominator l, and the maximum m that both are
    relative to.
    """

    o: Float[Array, "B G N K"]
    l: Float[Array, "B G N"]
    m: Float[Array, "B G N"]


class Partial(NamedTuple):
    """Attention to some keys: the average of their values, and the log of its denominator, by which
    it can be merged with attention to other keys. Where no key is visible they are 0 and NOTHING.
    """

    o: Float[Array, "B T H K"]
    log_total: Float[Array, "B T H"]


def merge(a: Partial, b: Partial) -> Float[Array, "B T H K"]:
    """The average over the keys of both."""
    share = spread(jax.nn.sigmoid(b.log_total - a.log_total), a.o.shape[-1])
    return (a.o + share * (b.o - a.o)).astype(a.o.dtype)


def empty(q: Array) -> Softmax:
    return Softmax(
        jnp.zeros(q.shape, jnp.float32), jnp.zeros(q.shape[:-1]), jnp.full(q.shape[:-1], NOTHING)
    )


def absorb(running: Softmax, q: Array, k: Array, v: Array, seen: Bool[Array, "B N S"]) -> Softmax:
    """`running` after a block of keys; `q` is scaled."""
    scores = jnp.where(seen[:, None], dot("bgnk,bgsk->bgns", q, k), NOTHING)
    m = jnp.maximum(running.m, scores.max(-1))
    weights = jnp.where(seen[:, None], jnp.exp(scores - m[..., None]), 0.0)
    fade = jnp.exp(running.m - m)
    l = running.l * fade + dot("bgns,s->bgn", weights, jnp.ones(k.shape[2]))
    o = running.o * fade[..., None] + dot("bgns,bgsk->bgnk", weights.astype(v.dtype), v)
    return Softmax(o, l, m)


def finish(running: Softmax, dtype: DTypeLike) -> tuple[Array, Array]:
    """The average, in `dtype`, and the log of its denominator; 0 and NOTHING where nothing was
    seen.
    """
    some = running.l > 0
    total = jnp.where(some, running.l, 1.0)
    return (running.o / total[..., None]).astype(dtype), jnp.where(
        some, running.m + jnp.log(total), NOTHING
    )


def blockwise(
    q: Array, k: Array, v: Array, at_q: Places, at_k: Places, rule: Rule, *, block: int
) -> Partial:
    """Attention of q [B,T,H,K] to k, v [B,S,G,K]; the form "blockwise" of
    `seqarch.ops.attention`.
    """
    queries, at_queries = split_queries(q, at_q, k.shape[2], block)
    k, v = (_blocks(x.transpose(0, 2, 1, 3), block) for x in (k, v))
    trips = _trips(len(k), k.shape[-2], rule) if at_q is at_k else (len(k), len(queries))
    return join_queries(*_attend(queries, k, v, at_queries, _cut(at_k, block), rule, trips), like=q)


def split_queries(
    q: Float[Array, "B T H K"], at: Places, groups: int, block: int
) -> tuple[Array, Places]:
    """Blocks of scaled queries [M,B,G,N,K], N = R C for blocks of C tokens, and their places
    [M,B,N].
    """
    B, T, H, K = q.shape
    grouped = q.reshape(B, T, groups, H // groups, K).transpose(0, 2, 3, 1, 4)
    blocks = _blocks(grouped * jnp.asarray(K**-0.5, q.dtype), block)
    at = jax.tree.map(lambda x: jnp.tile(x, (1, 1, H // groups)), _cut(at, block))
    return blocks.reshape(*blocks.shape[:3], -1, K), at


def join_queries(
    o: Float[Array, "M B G N K"], log_total: Float[Array, "M B G N"], like: Float[Array, "B T H K"]
) -> Partial:
    """What `split_queries` split, together again and without its padding."""
    (M, B, G, _), (_, T, H, _) = log_total.shape, like.shape

    def join(x: Array) -> Array:
        x = jnp.moveaxis(
            x.reshape(M, B, G, H // G, -1, *x.shape[4:]), (1, 0, 4), (0, 1, 2)
        )  # [B, M, C, G, R, ...]
        return x.reshape(B, -1, H, *x.shape[5:])[:, :T]

    return Partial(join(o), join(log_total))


def _blocks(x: Array, block: int) -> Array:
    """[..., T, K] -> [M, ..., C, K], padded; a block is no longer than the sequence."""
    block = max(1, min(block, x.shape[-2]))
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, -x.shape[-2] % block), (0, 0)])
    return jnp.moveaxis(x.reshape(*x.shape[:-2], -1, block, x.shape[-1]), -3, 0)


def _cut(at: Places, block: int) -> Places:
    """Places by block, [M, B, C]; padding is absent."""
    block = max(1, min(block, at.position.shape[1]))
    pad = [(0, 0), (0, -at.position.shape[1] % block)]
    cut = lambda x, fill: jnp.moveaxis(
        jnp.pad(x, pad, constant_values=fill).reshape(x.shape[0], -1, block), 1, 0
    )
    return Places(cut(at.position, -1), cut(at.segment, -1))


def _spans(at_q: Places, at_k: Places, rule: Rule) -> tuple[Array, Array]:
    """Needed[i, j]: may block i of the queries see something in block j of the keys? As ranges of
    j, by i, and of i, by j.

    Judged from the extremes of positions and segments in the blocks, so that it costs O(blocks^2)
    and not O(T S).
    """
    low = lambda x: jnp.where(x >= 0, x, jnp.iinfo(jnp.int32).max).min(-1)
    high = lambda x: x.max(-1)
    q, k = [[f(x) for x in (at.position, at.segment) for f in (low, high)] for at in (at_q, at_k)]
    (q_low, q_high, qs_low, qs_high), (k_low, k_high, ks_low, ks_high) = (
        [x[:, None] for x in q],
        [x[None] for x in k],
    )
    needed = (k_high >= 0) & (q_high >= 0) & (ks_low <= qs_high) & (ks_high >= qs_low)
    if rule.causal:
        needed &= k_low <= q_high
        if rule.window is not None:
            needed &= q_low - k_high < rule.window
    needed = needed.any(-1)
    return _ranges(needed), _ranges(needed.T)


def _ranges(needed: Array) -> Int[Array, "M 2"]:
    """The first True of each row and the one after its last; (0, 0) where there is none."""
    some = needed.any(1)
    first = jnp.where(some, needed.argmax(1), 0)
    return jnp.stack(
        [first, jnp.where(some, needed.shape[1] - needed[:, ::-1].argmax(1), 0)], axis=1
    )


def _trips(blocks: int, size: int, rule: Rule) -> tuple[float, float]:
    """Blocks of `size` keys that a block of as many queries reads, and of queries that one of keys
    is read by: the mean over all blocks of a sequence that is one document.
    """
    reach = blocks if rule.window is None else 1 + (rule.window + size - 2) // size
    seen = sum(min(i + 1, reach) for i in range(blocks)) / blocks if rule.causal else blocks
    return seen, seen


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    q: Array, k: Array, v: Array, at_q: Places, at_k: Places, rule: Rule, trips: tuple[float, float]
) -> tuple[Array, Array]:
    """The averages [M,B,G,N,K] and the logs of their denominators [M,B,G,N]; trips: see `_trips`,
    for seqarch.flops.
    """
    return _attend_forward(q, k, v, at_q, at_k, rule, trips)[0]


def _attend_forward(q, k, v, at_q, at_k, rule, trips):
    spans, _ = _spans(at_q, at_k, rule)

    def query_block(inputs):
        q, at_q, (first, end) = inputs

        def body(j, running):
            return absorb(
                running, q, k[j], v[j], visible(at_q, jax.tree.map(lambda x: x[j], at_k), rule)
            )

        with jax.named_scope(f"at_most_{trips[0]}_trips"):  # tells seqarch.flops
            return finish(jax.lax.fori_loop(first, end, body, empty(q)), q.dtype)

    o, log_total = jax.lax.map(query_block, (q, at_q, (spans[:, 0], spans[:, 1])))
    return (o, log_total), (q, k, v, at_q, at_k, o, log_total)


def _attend_backward(rule, trips, saved, cotangents):
    q, k, v, at_q, at_k, o, log_total = saved
    do, d_log_total = cotangents
    _, spans = _spans(at_q, at_k, rule)
    along = dot("mbgnk,mbgnk->mbgn", do, o) - d_log_total
    log_total = jnp.where(
        log_total > NOTHING, log_total, -NOTHING
    )  # no weight where nothing is seen

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

    dq, (dk, dv) = jax.lax.scan(
        key_block, jnp.zeros(q.shape, jnp.float32), (k, v, at_k, (spans[:, 0], spans[:, 1]))
    )
    return dq.astype(q.dtype), dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)
