"""Attention by blocks of queries and keys, in O(T) memory; blocks without visible keys are skipped.

The forward pass is an online softmax; the backward pass computes the scores again from the saved
log of the denominator (Dao et al. 2022, "FlashAttention", algorithms 1 and 4).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.bias import Gates
from seqarch.ops.blocks import (
    Keys,
    Queries,
    join_queries,
    mean_trips,
    pick,
    relative_gradient,
    score,
    score_gradients,
    spans,
    split_keys,
    split_queries,
)
from seqarch.ops.numerics import dot, spread
from seqarch.ops.online_softmax import NOTHING, Partial, absorb, empty, finish
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array


def blockwise(
    q: Array,
    k: Array,
    v: Array,
    at_q: Places,
    at_k: Places,
    rule: Rule,
    *,
    block: int,
    alibi: bool = False,
    gates: tuple[Gates, Gates] | None = None,
    relative: Array | None = None,
) -> Partial:
    """Returns attention of q [B,T,H,K] to k [B,S,G,K], v [B,S,G,V].

    It is the form "blockwise" of `seqarch.ops.attention`.
    """
    q_gate, k_gate = gates or (None, None)
    added = dict(alibi=alibi, gate=q_gate, relative=relative)
    queries = split_queries(q, at_q, k.shape[2], block, **added)
    keys = split_keys(k, v, at_k, block, gate=k_gate)
    own, trips = at_q is at_k, (len(keys.k), len(queries.q))
    if own or rule.end is not None:
        trips = (mean_trips(len(keys.k), keys.k.shape[-2], rule),) * 2
    return join_queries(*_attend(queries, keys, _How(rule, own, trips)), like=q)


class _How(NamedTuple):
    """What is not differentiated.

    rule: which keys a query sees
    own: whether queries and keys are of the same tokens
    trips: the mean numbers of key blocks per query block and of query blocks per key block, which
      go to seqarch.flops
    """

    rule: Rule
    own: bool
    trips: tuple[float, float]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attend(queries: Queries, keys: Keys, how: _How) -> tuple[Array, Array]:
    """Returns the averages [M,B,G,N,V] and the logs of their denominators [M,B,G,N]."""
    return _attend_forward(queries, keys, how)[0]


def _attend_forward(queries: Queries, keys: Keys, how: _How):
    rule, own, trips = how
    of_queries, _ = spans(queries.at, keys.at, rule, own)

    def query_block(inputs):
        queries, (first, end) = inputs

        def body(j, running):
            there = pick(keys, j)
            seen = visible(queries.at, there.at, rule)
            return absorb(running, score(queries, there), there.v, seen)

        start = empty(queries.q.shape[:-1], keys.v.shape[-1])
        with jax.named_scope(f"at_most_{trips[0]}_trips"):  # tells seqarch.flops
            return finish(jax.lax.fori_loop(first, end, body, start), queries.q.dtype)

    o, log_total = jax.lax.map(query_block, (queries, (of_queries[:, 0], of_queries[:, 1])))
    return (o, log_total), (queries, keys, o, log_total)


def _attend_backward(how: _How, saved, cotangents):
    (rule, own, trips), (queries, keys, o, log_total) = how, saved
    do, d_log_total = cotangents
    _, of_keys = spans(queries.at, keys.at, rule, own)
    along = dot("mbgnv,mbgnv->mbgn", do, o) - d_log_total
    log_total = jnp.where(log_total > NOTHING, log_total, -NOTHING)  # weight 0 where none is seen

    def key_block(d_queries, inputs):
        keys, (first, end) = inputs

        def body(i, carry):
            (dq, dq_gate, d_relative), (dk, dv, dk_gate) = carry
            here, size = pick(queries, i), keys.k.shape[2]
            seen = visible(here.at, keys.at, rule)[:, None]
            scores = jnp.where(seen, score(here, keys), NOTHING)
            weights = jnp.exp(scores - spread(log_total[i], size))
            dv = dv + dot("bgnv,bgns->bgvs", do[i], weights.astype(keys.v.dtype))
            d_weights = dot("bgnv,bgsv->bgns", do[i], keys.v)
            d_scores = weights * (d_weights - spread(along[i], size))
            q, q_gate, k, k_gate = score_gradients(d_scores, here, keys)
            if q_gate is not None:
                dq_gate, dk_gate = dq_gate.at[i].add(q_gate), dk_gate + k_gate
            if d_relative is not None:
                d_relative = d_relative.at[i].add(relative_gradient(d_scores, here, keys))
            return (dq.at[i].add(q), dq_gate, d_relative), (dk + k, dv, dk_gate)

        with jax.named_scope(f"at_most_{trips[1]}_trips"):
            zero = _zeros((keys.k.mT, keys.v.mT, keys.gate and keys.gate.part))
            d_queries, (dk, dv, gate) = jax.lax.fori_loop(first, end, body, (d_queries, zero))
        return d_queries, (dk.mT.astype(keys.k.dtype), dv.mT.astype(keys.v.dtype), gate)

    zero = _zeros((queries.q, queries.gate and queries.gate.part, queries.relative))
    blocks = keys, (of_keys[:, 0], of_keys[:, 1])
    (dq, dq_gate, d_relative), (dk, dv, dk_gate) = jax.lax.scan(key_block, zero, blocks)
    dq, dq_gate = dq.astype(queries.q.dtype), _gate_cotangent(dq_gate)
    d_queries = Queries(dq, None, None, dq_gate, d_relative)
    return d_queries, Keys(dk, dv, None, _gate_cotangent(dk_gate))


def _zeros(like: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), like)


def _gate_cotangent(part: Array | None) -> Gates | None:
    return None if part is None else Gates(None, part)


_attend.defvjp(_attend_forward, _attend_backward)
