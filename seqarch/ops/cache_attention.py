"""Attention to a key/value cache, read in place, block by block, up to its filled part.

A prefill merges it with attention among its own tokens (`online_softmax.merge`); decoding needs
only it.

On accelerators each turn of the loop costs microseconds, and products of few rows are not left to
matrix units. Blocks there are larger, and the queries of a block are at least 8. TPUs have a kernel
for caches without biases.
"""

from functools import partial, reduce
from operator import or_
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.bias import Gates
from seqarch.ops.blocks import Keys, join_queries, score, split_queries
from seqarch.ops.blockwise import blockwise
from seqarch.ops.cache_slots import take
from seqarch.ops.online_softmax import Partial, absorb, empty, finish, merge
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array, Float, Int

BLOCK = 256  # tokens of a block of queries, and slots of a block on CPU


class CacheBlocks(NamedTuple):
    """How a cache is read.

    tokens: of a block of queries
    slots: of a block of the cache
    least: tokens to which the queries are filled up
    """

    tokens: int
    slots: int
    least: int = 1


def cache_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S V"],
    at_q: Places,
    k_pos: Int[Array, "_ S"],
    filled: Int[Array, ""],
    *rules: Rule,
    block: int | CacheBlocks | None = None,
    alibi: bool = False,
    gate: Gates | None = None,
    fade: Float[Array, "B H S"] | None = None,
    address: Int[Array, "B S rounds"] | None = None,
    relative: Float[Array, "H W"] | None = None,
) -> Partial:
    """Returns attention of each row's queries to its cache.

    A loop with a traced bound has no reverse mode, so the gradient is that of the blockwise form.

    Args:
      q: queries.
      k: cached keys of any dtype; each block is cast to q's, since casting the cache would copy
        it.
      v: cached values, likewise.
      at_q: places of the queries; all that is cached is of segment 0.
      k_pos: positions of the slots; -1 where a slot is empty. Its rows may be fewer than B: each is
        of as many neighbouring rows of the others.
      filled: slots from the first on that are read, in all rows.
      rules: a query sees the keys that one of these allows; no two allow the same.
      block: slots, and tokens, of a block, or how both are read; None: as the platform wants.
      alibi: whether scores have the bias of ALiBi.
      gate: sums [B,T,H] of the log forget gates from the end of what `fade` covers to each query.
      fade: sums of the log forget gates after each slot; None: no forget gates.
      address: addresses of the slots in each round of hashing; None: not hashed.
      relative: bias by distance, as of `ops.attention`; None: none.
    """
    if fade is not None and gate is None:
        gate = Gates(jnp.zeros(q.shape[:3], jnp.int32), jnp.zeros(q.shape[:3]))
    block = CacheBlocks(block, block) if isinstance(block, int) else block
    how = rules or (Rule(),), block, alibi
    return _attend(q, k, v, gate, fade, relative, at_q, (k_pos, address), filled, how)


def cache_attention_on_tpu(*given, **bias) -> Partial:
    """Returns `cache_attention` by a kernel for TPUs, where it applies."""
    from seqarch.ops.kernels.cache_attention import attend_cache

    return attend_cache(*given, **bias)


@partial(jax.custom_vjp, nondiff_argnums=(9,))
def _attend(q, k, v, gate, fade, relative, at_q, slots, filled, how) -> Partial:
    rules, block, alibi = how
    given = q, k, v, gate, fade, relative, at_q, slots, filled
    if block is not None:
        return _read(block, rules, alibi, *given)
    on_cpu = partial(_read, CacheBlocks(BLOCK, BLOCK), rules, alibi)
    larger = accelerator_blocks(q.shape[1], q.shape[2] // k.shape[1], *k.shape[:3])
    elsewhere = partial(_read, larger, rules, alibi)
    return jax.lax.platform_dependent(*given, cpu=on_cpu, default=elsewhere)


def accelerator_blocks(tokens: int, shared: int, rows: int, heads: int, slots: int) -> CacheBlocks:
    """Returns how accelerators read a cache: an eighth at once, less for many queries or rows.

    A block of scores has at most 2**18 for each row and head of the cache, or those of 256 slots,
    and a block of keys at most 2**20 of all rows and heads, or those of 1,024 slots.

    Args:
      tokens: of the queries.
      shared: query heads of each head of the cache.
      rows: of the cache.
      heads: of the cache.
      slots: of the cache.
    """
    least = -(-8 // shared)
    fitting = 2**18 // (shared * min(BLOCK, max(least, tokens)))
    wanted = max(1024, min(slots // 8, 2**20 // (rows * heads)))
    return CacheBlocks(BLOCK, max(BLOCK, min(wanted, fitting)), least)


def _read(
    how: CacheBlocks, rules, alibi, q, k, v, gate, fade, relative, at_q, slots, filled
) -> Partial:
    B, G, S, _ = k.shape
    size = min(how.slots, S)
    blocks = -(-jnp.minimum(filled, S) // size)

    def query_block(queries):
        def body(j, running):
            # The last block may overlap the one before, whose slots count once.
            start = jnp.minimum(j * size, S - size)
            fresh = (start + jnp.arange(size) >= j * size)[None]
            block_of = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, 1)
            there = _places(*jax.tree.map(block_of, slots), B)
            there = there._replace(position=jnp.where(fresh, there.position, -1))
            keys, values = (take(x, start, size).astype(q.dtype) for x in (k, v))
            sums = None
            if fade is not None:
                sums = jax.lax.dynamic_slice_in_dim(fade, start, size, 2)
                sums = _as_gates(sums.reshape(B, G, -1, size))
            scores = score(queries, Keys(keys, values, there, sums))
            seen = reduce(or_, (visible(queries.at, there, rule) for rule in rules))
            return absorb(running, scores, values, seen)

        start = empty(queries.q.shape[:-1], v.shape[-1])
        with jax.named_scope(f"at_most_{S / size}_trips"):  # tells seqarch.flops
            return finish(jax.lax.fori_loop(0, blocks, body, start), q.dtype)

    more = partial(_fill, how.least)
    given, at_q, gate = (
        more(q),
        jax.tree.map(partial(more, value=-1), at_q),
        jax.tree.map(more, gate),
    )
    queries = split_queries(given, at_q, G, how.tokens, alibi=alibi, gate=gate, relative=relative)
    return join_queries(*jax.lax.map(query_block, queries), like=q)


def _places(k_pos: Array, address: Array | None, rows: int) -> Places:
    position = jnp.repeat(k_pos, rows // len(k_pos), axis=0)
    return Places(position, jnp.zeros_like(position), address)


def _as_gates(fade: Float[Array, "..."]) -> Gates:
    """Returns the cumulative sums at slots, relative to the end of what `fade` covers."""
    return Gates(jnp.zeros(fade.shape, jnp.int32), -fade)


def _fill(least: int, x: Array, value: int = 0) -> Array:
    """Returns x [B, T, ...] with at least so many tokens, those that are added of one value."""
    more = max(0, least - x.shape[1])
    pad = [(0, 0), (0, more), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x, pad, constant_values=value) if more else x


def _forward(q, k, v, gate, fade, relative, at_q, slots, filled, how):
    y = _attend(q, k, v, gate, fade, relative, at_q, slots, filled, how)
    return y, (q, k, v, gate, fade, relative, at_q, slots)


def _backward(how, saved, cotangents):
    *floating, at_q, slots = saved
    rules, block, alibi = how
    block = block.tokens if block else BLOCK

    def definition(q, k, v, part, fade, relative):
        k, v = (x.astype(q.dtype).transpose(0, 2, 1, 3) for x in (k, v))
        at_k, gates = _places(*slots, len(k)), None
        if fade is not None:
            gates = gate._replace(part=part), _as_gates(fade.swapaxes(1, 2))
        how = dict(block=block, alibi=alibi, gates=gates, relative=relative)
        return merge(*(blockwise(q, k, v, at_q, at_k, rule, **how) for rule in rules))

    q, k, v, gate, fade, relative = floating
    part = None if gate is None else gate.part
    given = q, k, v, part, fade, relative
    dq, dk, dv, d_part, d_fade, d_relative = jax.vjp(definition, *given)[1](cotangents)
    d_gate = None if gate is None else Gates(None, d_part)
    return dq, dk, dv, d_gate, d_fade, d_relative, None, None, None


_attend.defvjp(_forward, _backward)
