"""Attention to a key/value cache, read in place, block by block, up to its filled part.

A prefill merges it with attention among its own tokens (`blockwise.merge`); decoding needs only it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from seqarch.ops.blockwise import (
    Partial,
    absorb,
    blockwise,
    empty,
    finish,
    join_queries,
    split_queries,
)
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array, Float, Int


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def cache_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    at_q: Places,
    k_pos: Int[Array, "B S"],
    filled: Int[Array, ""],
    window: int | None = None,
    block: int = 256,
) -> Partial:
    """Returns causal attention of each row's queries to its cache.

    A loop with a traced bound has no reverse mode, so the gradient is that of the blockwise form.

    Args:
      q: queries.
      k: cached keys of any dtype; each block is cast to q's, since casting the cache would copy
        it.
      v: cached values, likewise.
      at_q: places of the queries; all that is cached is of segment 0.
      k_pos: positions of the slots; -1 where a slot is empty.
      filled: slots from the first on that are read, in all rows.
      window: positions that a query sees, its own included; None: all.
      block: slots, and tokens, of a block.
    """
    B, G, S, _ = k.shape
    size = min(block, S)
    blocks = -(-jnp.minimum(filled, S) // size)

    def query_block(inputs):
        queries, here = inputs

        def body(j, running):
            # The last block may overlap the one before, whose slots count once.
            start = jnp.minimum(j * size, S - size)
            fresh = (start + jnp.arange(size) >= j * size)[None]
            places = jnp.where(fresh, jax.lax.dynamic_slice_in_dim(k_pos, start, size, 1), -1)
            there = Places(places, jnp.zeros((B, size), jnp.int32))
            keys, values = (_slots(x, start, size).astype(q.dtype) for x in (k, v))
            return absorb(running, queries, keys, values, visible(here, there, Rule(True, window)))

        with jax.named_scope(f"at_most_{S / size}_trips"):  # tells seqarch.flops
            return finish(jax.lax.fori_loop(0, blocks, body, empty(queries)), q.dtype)

    return join_queries(*jax.lax.map(query_block, split_queries(q, at_q, G, block)), like=q)


def _slots(x: Float[Array, "B G S K"], start: Int[Array, ""], size: int) -> Float[Array, "B G C K"]:
    """Returns a block of a cache, in the layout of the cache.

    Otherwise XLA on GPUs transposes all values before the loop, once per decoded token, for the
    product of one query with them.
    """
    block = jax.lax.dynamic_slice_in_dim(x, start, size, axis=2)
    return with_layout_constraint(block, Layout(major_to_minor=(0, 1, 2, 3)))


def _forward(q, k, v, at_q, k_pos, filled, window, block):
    return cache_attention(q, k, v, at_q, k_pos, filled, window, block), (q, k, v, at_q, k_pos)


def _backward(window, block, saved, cotangents):
    q, k, v, at_q, k_pos = saved

    def definition(q, k, v):
        k, v = (x.astype(q.dtype).transpose(0, 2, 1, 3) for x in (k, v))
        at_k = Places(k_pos, jnp.zeros_like(k_pos))
        return blockwise(q, k, v, at_q, at_k, Rule(True, window), block=block)

    return *jax.vjp(definition, q, k, v)[1](cotangents), None, None, None


cache_attention.defvjp(_forward, _backward)
