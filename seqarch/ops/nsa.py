"""Attention of each query to the keys of some blocks that it has chosen.

In the masked and the blockwise form every query is compared with every key, and the first stores
what comes of it; in the gathered form a query reads the keys of its blocks alone. On two CPU cores,
with 16 blocks of 32 tokens, forward and backward of 2,048 tokens take twice as long in the gathered
form as in the blockwise one. On TPUs a decoded token reads its blocks by a kernel, and the mixer
has kernels for its other branches; between tokens of a row, "pallas" is the gathered form.

Source: Yuan et al. 2025, "Native sparse attention", sections 3.3 and 3.4.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.chunks import by_chunks
from seqarch.ops.folding import fold, fold_places, fold_queries, unfold
from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.kernels import LANES
from seqarch.ops.numerics import dot
from seqarch.ops.online_softmax import Partial, absorb, empty, finish
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Bool, Float, Int


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
        there, present = _locate(where, first, k_pos)
        distance = position[:, :, None] - where
        seen &= present & (distance >= 0)
        if window is not None:
            seen &= distance < window
        keys, values = (x[rows, there].astype(q.dtype) for x in (k, v))
        scores = dot("bcrk,bcsk->bcrs", q * jnp.asarray(channels**-0.5, q.dtype), keys)
        flat = lambda x: x.reshape(B * C, 1, *x.shape[2:])
        running = empty((B * C, 1, R), v.shape[-1])
        seen = jnp.broadcast_to(flat(seen), (B * C, R, seen.shape[-1]))
        o, log_total = finish(absorb(running, flat(scores), flat(values), seen), q.dtype)
        return o.reshape(B, C, R, -1), log_total.reshape(B, C, R)

    return Partial(*by_chunks(of, (q, at.position, chosen, first), chunk))


def _locate(
    where: Int[Array, "B T N"], first: Int[Array, "B T"], k_pos: Int[Array, "B S"]
) -> tuple[Int[Array, "B T N"], Bool[Array, "B T N"]]:
    """Returns the indices of the keys at positions of each query's document, and which exist."""
    index = where + first[:, :, None]
    there = jnp.clip(index, 0, k_pos.shape[1] - 1)
    rows = jnp.arange(len(k_pos))[:, None, None]
    return there, (index == there) & (k_pos[rows, there] == where)


def gathered_cache(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S V"],
    at: Places,
    chosen: Int[Array, "B T G count"],
    k_pos: Int[Array, "B S"],
    *,
    size: int,
    window: int,
    on_tpu: bool = False,
) -> tuple[Partial, Partial]:
    """Returns attention to chosen blocks and to a window of a cache, in which token p is in slot p.

    Args:
      q: queries.
      k: cached keys.
      v: cached values.
      at: places of the queries; all that is cached is of segment 0.
      chosen: numbers of the blocks that they choose.
      k_pos: positions of the slots; -1 where a slot is empty.
      size: tokens of a block.
      window: positions that a query sees, its own included.
      on_tpu: whether a kernel for a TPU reads them, where it applies.
    """
    on_tpu = on_tpu and LANES % size == 0
    G, width = k.shape[1], LANES if on_tpu else size
    last = jnp.arange((window - 2) // width + 2).reshape(1, 1, 1, -1)
    last = (at.position // width)[:, :, None, None] - last
    last = jnp.broadcast_to(last, (*chosen.shape[:3], last.shape[-1]))
    branches = [
        (jnp.where(at.segment[..., None, None] == 0, blocks, -1), *how)
        for blocks, *how in ((chosen, size, None), (last, width, window))
    ]
    if on_tpu:
        from seqarch.ops.kernels.cache_ranges import attend_ranges, block_ranges, takes

        ranges = [block_ranges(at.position, *each) for each in branches]
        if all(takes(q.shape[1], each) for each in ranges):
            return tuple(attend_ranges(q, k, v, k_pos, each) for each in ranges)
    there, found = fold_places(at, G), []
    k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
    k_pos = jnp.repeat(k_pos, G, axis=0)
    for blocks, width, reach in branches:
        given = fold_queries(q, G), k, v, there, fold(blocks), jnp.zeros_like(there.position)
        part = gathered(*given, k_pos, size=width, window=reach)
        found.append(unfold(part, G))
    return tuple(found)


def _compared(form: str, q, k, v, at: Places, *, size: int, block: int) -> Partial:
    """Computes a form of attention, in which every query is compared with every key."""
    k, v = k[:, :, None], v[:, :, None]
    return ATTENTION[form](q, k, v, at, at, Rule(chosen=size), block=block)


def _gathered(q, k, v, at: Places, *, size: int, block: int) -> Partial:
    first = jnp.arange(q.shape[1])[None] - at.position
    return gathered(q, k, v, at, at.chosen, first, at.position, size=size)


FORMS = Forms(
    {
        "masked": partial(_compared, "materialised"),
        "blockwise": partial(_compared, "blockwise"),
        "gathered": _gathered,
    },
    cpu="blockwise",
    accelerator="gathered",
    tpu="pallas",
    kernels={"pallas": Kernel("tpu", _gathered)},
)
