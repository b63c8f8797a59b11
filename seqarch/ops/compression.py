"""Blocks of tokens, their compression to one key and value each, and the choice of some.

Block b of a document has its tokens b size to (b + 1) size - 1. A block is compressed to weighted
sums of its keys and values once it is complete. A query chooses its own block, then the first and
the previous one, then the complete blocks whose compressed keys have the greatest products with it.

The keys and queries by which blocks are chosen, and their products, are exact
(`seqarch.ops.exact`), so that a step and a prefill choose the same blocks to the bit.

Source: Yuan et al. 2025, "Native sparse attention", sections 3.2 and 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.chunks import by_chunks
from seqarch.ops.exact import exact_product, exact_scores, whole_numbers
from seqarch.ops.visibility import Places
from seqarch.types import Array, Float, Int


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


def complete_blocks(length: Int[Array, "B"], count: int, size: int) -> Places:
    """Returns the places of the last tokens of the first `count` blocks, of a cache.

    Args:
      length: tokens that are cached.
      count: blocks that the cache has room for.
      size: tokens of a block.
    """
    number = jnp.arange(count)[None]
    complete = number < length[:, None] // size
    position = jnp.where(complete, (number + 1) * size - 1, -1)
    return Places(position, jnp.zeros_like(position))


def group_queries(
    x: Float[Array, "B T D"], W: Float[Array, "D F"], groups: int, channels: int
) -> Float[Array, "B T G K"]:
    """Returns the exact sums of the queries x W over the heads of each group."""
    W = whole_numbers(W).reshape(len(W), groups, -1, channels).sum(2)
    return exact_product(x, W.reshape(len(W), -1)).reshape(*x.shape[:2], groups, channels)


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

    return by_chunks(of, (q, at), chunk)
