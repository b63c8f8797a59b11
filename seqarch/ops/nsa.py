"""Blocks of tokens: their compression, the choice of some, and attention to chosen ones.

Block b of a document has its tokens b size to (b + 1) size - 1. A block is compressed to weighted
sums of its keys and values once it is complete, by

    sum over its tokens j of w_j * k_j

A query chooses its own block, then the first and the previous one, then the complete blocks whose
compressed keys have the greatest products with it (summed over the heads of a group). These keys,
the queries and their products are exact (`seqarch.ops.exact`), so that a step and a prefill choose
the same blocks to the bit.

In the masked and the blockwise form of attention to chosen blocks every query is compared with
every key, and the first stores what comes of it; in the gathered form a query reads the keys of its
blocks alone. On two CPU cores, with 16 blocks of 32 tokens, forward and backward of 2,048 tokens
take twice as long in the gathered form as in the blockwise one.

Source: Yuan et al. 2025, "Native sparse attention", sections 3.2 and 3.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.exact import exact_scores
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import dot
from seqarch.ops.online_softmax import Partial, absorb, empty, finish
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Float, Int, PyTree


class Spans(NamedTuple):
    """Where blocks begin in a call, and how many of their tokens have come.

    The last one is the incomplete block after the call's tokens. A start before the call is
    negative, and that block continues the one of the state.

    start: index of the block's first token
    size: tokens; 0 for no block
    at: place of the last token; position -1 for no complete block
    """

    start: Int[Array, "B M"]
    size: Int[Array, "B M"]
    at: Places


def block_spans(at: Places, length: Int[Array, "B"], size: int) -> Spans:
    """Returns the blocks that end in a call of T tokens: room for all of them, and the last one.

    Args:
      at: places of the tokens; the absent ones are the last.
      length: tokens of the state's document.
      size: tokens of a block.
    """
    T = at.position.shape[1]
    ends = (at.position >= 0) & (at.position % size == size - 1)
    end = jnp.argsort(~ends, axis=1, stable=True)[:, : -(-T // size)]
    take = lambda x: jnp.take_along_axis(x, end, axis=1)
    complete = take(ends)
    count = (at.position >= 0).sum(1, dtype=jnp.int32)
    last = jnp.take_along_axis(at.position, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    rest = jnp.where(count > 0, last + 1, length) % size
    start = jnp.concatenate([jnp.where(complete, end - size + 1, 0), (count - rest)[:, None]], 1)
    sizes = jnp.concatenate([jnp.where(complete, size, 0), rest[:, None]], axis=1)
    position = jnp.where(complete, take(at.position), -1)
    return Spans(start, sizes, Places(position, take(at.segment)))


def block_sums(
    x: Float[Array, "B T G K"] | Int[Array, "B T G K"],
    partial: Float[Array, "B G K"] | Int[Array, "B G K"],
    spans: Spans,
    size: int,
) -> Array:
    """Returns the sums [B,M,G,K] of `x` over blocks.

    `partial` is that of the tokens in the state's incomplete block.
    """
    place = jnp.arange(size)[None, None]
    index = spans.start[:, :, None] + place
    inside = (index >= 0) & (place < spans.size[:, :, None])
    rows = jnp.arange(len(x))[:, None, None]
    found = x[rows, jnp.clip(index, 0, x.shape[1] - 1)]
    total = jnp.where(inside[..., None, None], found, 0).sum(2)
    continues = (spans.start < 0)[:, :, None, None]
    return total + jnp.where(continues, partial[:, None], 0)


def choose(
    q: Float[Array, "B T K"],
    at: Places,
    keys: Float[Array, "B M K"],
    blocks: Places,
    *,
    size: int,
    count: int,
    chunk: int,
) -> Int[Array, "B T _"]:
    """Returns the numbers of the blocks that each query chooses; -1 where there are no more.

    There are `count`, or as many as there can be.

    Args:
      q: exact queries.
      at: their places.
      keys: exact compressed keys, in the order of their blocks within a document.
      blocks: places of the last tokens of the blocks.
      size: tokens of a block.
      count: blocks that a query chooses.
      chunk: queries that are treated together.
    """
    number = jnp.where(blocks.position < 0, -1, blocks.position // size)[:, None]

    def of(chunk: tuple[Array, Places]) -> Array:
        q, at = chunk
        own = jnp.where(at.position < 0, -1, at.position // size)[:, :, None]
        known = (number >= 0) & (number < own) & (at.segment[:, :, None] == blocks.segment[:, None])
        given = (number == 0) | (number == own - 1)
        score = jnp.where(given, jnp.inf, exact_scores(q, keys))
        top, index = jax.lax.top_k(jnp.where(known, score, -jnp.inf), min(count - 1, keys.shape[1]))
        found = jnp.take_along_axis(jnp.broadcast_to(number, score.shape), index, axis=-1)
        found = jnp.where(top > -jnp.inf, found, -1)
        return jnp.concatenate([own, found], axis=-1)

    return _by_chunks(of, (q, at), chunk)


def gathered(
    q: Float[Array, "B T R K"],
    k: Float[Array, "B S K"],
    v: Float[Array, "B S V"],
    at: Places,
    chosen: Int[Array, "B T count"],
    first: Int[Array, "B T"],
    k_pos: Int[Array, "B S"],
    *,
    size: int,
    window: int | None = None,
    chunk: int = 16,
) -> Partial:
    """Returns attention to the keys of chosen blocks, which are gathered for each query.

    Args:
      q: queries of R heads, which share the keys.
      k: keys.
      v: values.
      at: places of the queries.
      chosen: numbers of the blocks of each query; -1 for none.
      first: index among the keys of the first token of the query's document; it may be negative.
      k_pos: positions of the keys; -1 for an absent one.
      size: tokens of a block.
      window: only keys less than `window` positions before the query; None: all.
      chunk: queries that are treated together.
    """
    rows, channels = jnp.arange(len(q))[:, None, None], q.shape[-1]

    @jax.checkpoint
    def of(chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        q, position, chosen, first = chunk
        B, C, R, K = q.shape
        where = chosen[..., None] * size + jnp.arange(size).reshape(1, 1, 1, -1)
        seen = jnp.broadcast_to(chosen[..., None] >= 0, where.shape).reshape(B, C, -1)
        where = where.reshape(B, C, -1)
        index = where + first[:, :, None]
        there = jnp.clip(index, 0, k.shape[1] - 1)
        distance = position[:, :, None] - where
        seen &= (index == there) & (distance >= 0) & (k_pos[rows, there] == where)
        if window is not None:
            seen &= distance < window
        keys, values = (x[rows, there].astype(q.dtype) for x in (k, v))
        scores = dot("bcrk,bcsk->bcrs", q * jnp.asarray(channels**-0.5, q.dtype), keys)
        flat = lambda x: x.reshape(B * C, 1, *x.shape[2:])
        running = empty((B * C, 1, R), v.shape[-1])
        seen = jnp.broadcast_to(flat(seen), (B * C, R, seen.shape[-1]))
        o, log_total = finish(absorb(running, flat(scores), flat(values), seen), q.dtype)
        return o.reshape(B, C, R, -1), log_total.reshape(B, C, R)

    return Partial(*_by_chunks(of, (q, at.position, chosen, first), chunk))


def _masked(q, k, v, at: Places, *, size: int, block: int) -> Partial:
    k, v = k[:, :, None], v[:, :, None]
    return ATTENTION["materialised"](q, k, v, at, at, Rule(chosen=size), block=block)


def _blockwise(q, k, v, at: Places, *, size: int, block: int) -> Partial:
    k, v = k[:, :, None], v[:, :, None]
    return ATTENTION["blockwise"](q, k, v, at, at, Rule(chosen=size), block=block)


def _gathered(q, k, v, at: Places, *, size: int, block: int) -> Partial:
    first = jnp.arange(q.shape[1])[None] - at.position
    return gathered(q, k, v, at, at.chosen, first, at.position, size=size)


FORMS = Forms(
    {"masked": _masked, "blockwise": _blockwise, "gathered": _gathered},
    cpu="blockwise",
    accelerator="gathered",
)


def _by_chunks(of: Callable[[PyTree], PyTree], given: PyTree, chunk: int) -> PyTree:
    """Returns `of` of chunks of tokens of the arrays [B,T,...] in `given`, one after the other.

    Padding is -1 in arrays of integers.
    """
    T = jax.tree.leaves(given)[0].shape[1]
    chunk = max(1, min(chunk, T))

    def cut(x: Array) -> Array:
        pad = [(0, 0), (0, -T % chunk), *[(0, 0)] * (x.ndim - 2)]
        fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
        x = jnp.pad(x, pad, constant_values=fill)
        return jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(len(x), -1, *x.shape[3:])[:, :T]

    return jax.tree.map(join, jax.lax.map(of, jax.tree.map(cut, given)))
