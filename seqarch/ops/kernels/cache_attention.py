"""Attention to a key/value cache on a TPU: the online softmax, in one kernel.

Blocks of the cache pass through fast memory up to its filled part, and scores never leave it. The
query heads that share a key head are rows of one block of queries, so that a decoded token reads
the cache once. Caches of narrow heads have their slots last in memory (seqarch.ops.cache_slots),
and so have the blocks.

Source: Dao et al. 2022, "FlashAttention", algorithm 1.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.cache_slots import is_narrow
from seqarch.ops.kernels.attention_calls import VMEM
from seqarch.ops.kernels.attention_kernels import LN2, LOWEST
from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.ops.numerics import fill
from seqarch.ops.online_softmax import NOTHING, Partial
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Float, Int

QUERIES, SLOTS = 512, 1024  # of a block, at most
LEAST = 16  # rows of a block of queries


def attend_cache(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    at_q: Places,
    k_pos: Int[Array, "B S"],
    filled: Int[Array, ""],
    rule: Rule,
    **bias,
) -> Partial:
    """Returns `seqarch.ops.cache_attention.cache_attention` by the kernel.

    Where scores have a bias, the rule says more than order and a window, or rows do not divide over
    the devices, that function computes it itself.
    """
    plain = rule._replace(window=None, order=None, alone=False) == Rule()
    biased = any(x is not None and x is not False for x in bias.values())
    if biased or not plain or len(q) % row_devices():
        return cache_attention(q, k, v, at_q, k_pos, filled, rule, **bias)
    return _attend(q, k, v, at_q, k_pos, filled, rule)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(q, k, v, at_q, k_pos, filled, rule) -> Partial:
    (B, T, H, K), G = q.shape, k.shape[1]
    last = jnp.where((at_q.segment == 0) & (at_q.position >= 0), at_q.position, -1)
    sees = jnp.repeat(last, H // G, axis=1)[..., None]  # the last position that a query may see
    grouped = q.reshape(B, T, G, -1, K).swapaxes(1, 2).reshape(B, G, -1, K)
    rows = grouped.shape[2]
    size = min(QUERIES, rows + -rows % LEAST)
    given = fill(grouped, 2, size), k, v, fill(sees, 1, size, -1), k_pos[:, None]
    o, log_total = by_rows(partial(_call, size, rule.window), given, filled)
    back = lambda x: x[:, :, :rows].reshape(B, G, T, H // G, -1).swapaxes(1, 2).reshape(B, T, H, -1)
    return Partial(back(o), back(log_total)[..., 0])


def _forward(*given):
    *operands, rule = given
    return _attend(*given), operands


def _backward(rule, operands, cotangents):
    q, k, v, *rest = operands
    _, pull = jax.vjp(lambda *qkv: cache_attention(*qkv, *rest, rule), q, k, v)
    return *pull(cotangents), None, None, None


_attend.defvjp(_forward, _backward)


class _How(NamedTuple):
    """What is fixed when the kernel is compiled.

    Attributes:
      window: tokens that a query sees, its own included; None: all.
      scale: factor of the products of queries and keys, as logarithms to base 2.
      slots: of the cache.
      channels: axis of a block of keys and values that has the channels.
    """

    window: int | None
    scale: float
    slots: int
    channels: int


def _call(size: int, window: int | None, rows: tuple[Array, ...], filled: Array) -> tuple:
    """Returns the averages [B,G,N,K] and the logs [B,G,N,1] of their denominators.

    Args:
      size: queries of a block.
      window: as of a Rule.
      rows: queries [B,G,N,K], keys, values, last visible positions [B,N,1], and positions [B,1,S].
      filled: slots that are read.
    """
    q, k, v, sees, k_pos = rows
    (B, G, N, K), S = q.shape, k.shape[2]
    block, channels = min(SLOTS, S), COLUMNS
    count = -(-S // block)

    def at(j: Array, end: Any) -> Array:
        """Returns the block of a turn; no other one is fetched behind the filled part."""
        return jnp.minimum(j, jnp.maximum(end[0] - 1, 0))

    cached = pl.BlockSpec((None, None, block, K), lambda b, g, i, j, end: (b, g, at(j, end), 0))
    if is_narrow(k):
        k, v, channels = k.swapaxes(2, 3), v.swapaxes(2, 3), ROWS
        cached = pl.BlockSpec((None, None, K, block), lambda b, g, i, j, end: (b, g, 0, at(j, end)))

    of_queries = lambda width: pl.BlockSpec(
        (None, None, size, width), lambda b, g, i, *_: (b, g, i, 0)
    )
    there = pl.BlockSpec((None, 1, block), lambda b, g, i, j, end: (b, 0, at(j, end)))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(B, G, N // size, count),
        in_specs=[
            *(of_queries(K), cached, cached),
            *(pl.BlockSpec((None, size, 1), lambda b, g, i, *_: (b, i, 0)), there),
        ],
        out_specs=[of_queries(K), of_queries(1)],
        scratch_shapes=[pltpu.VMEM((size, width), jnp.float32) for width in (1, 1, K)],
    )
    how = _How(window, K**-0.5 / LN2, S, channels)
    return kernel_call(
        partial(_body, how),
        grid_spec=grid,
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((B, G, N, 1), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) * 3 + ("arbitrary",), vmem_limit_bytes=VMEM
        ),
        name="cache_attention",
    )(-(-filled // block).reshape(1), q, k, v, sees, k_pos)


def _body(how: _How, end, q, k, v, sees, k_pos, o, log_total, *running) -> None:
    j, online = pl.program_id(3), Online(*running)
    pl.when(j == 0)(online.begin)

    @pl.when(j < end[0])
    def absorb():
        distance = sees[...] - k_pos[...]
        seen = (distance >= 0) & (k_pos[...] >= 0)
        if how.window is not None:
            seen &= distance < how.window
        block, values = k_pos.shape[1], v[...].astype(q.dtype)
        if how.slots % block:  # the last block reaches beyond the cache
            left = how.slots - j * block
            seen &= iota((1, block), COLUMNS) < left
            slot = iota(values.shape, 1 - how.channels)
            values = jnp.where(slot < left, values, jnp.zeros_like(values))
        online.absorb(q[...], k[...], values, seen, how.scale, how.channels)

    @pl.when(j == pl.num_programs(3) - 1)
    def finish():
        online.finish(o, log_total)


class Online(NamedTuple):
    """The running maximum, denominator and numerator of each query's softmax."""

    m: Float[Any, "N 1"]
    l: Float[Any, "N 1"]
    sums: Float[Any, "N K"]

    def begin(self) -> None:
        """Before any key."""
        for ref, value in zip(self, (LOWEST, 0, 0), strict=True):
            ref[...] = jnp.full(ref.shape, value, jnp.float32)

    def absorb(
        self,
        queries: Float[Array, "N K"],
        keys: Array,
        values: Array,
        seen: Array,
        scale: float,
        channels: int,
    ) -> None:
        """Adds the keys and values of a block.

        Args:
          queries: as they were given.
          keys, values: [slots, K], or [K, slots] where `channels` is ROWS.
          seen: whether a query sees a slot.
          scale: factor of the products, as logarithms to base 2.
          channels: the axis with the channels.
        """
        dtype = queries.dtype
        queries = (queries.astype(jnp.float32) * scale).astype(dtype)
        scores = product(queries, keys.astype(dtype), COLUMNS, channels)
        scores = jnp.where(seen, scores, NOTHING)
        top = jnp.maximum(self.m[...], scores.max(1, keepdims=True))
        weights, faded = jnp.exp2(scores - top), jnp.exp2(self.m[...] - top)
        self.m[...], self.l[...] = top, self.l[...] * faded + weights.sum(1, keepdims=True)
        read = product(weights.astype(dtype), values.astype(dtype), COLUMNS, 1 - channels)
        self.sums[...] = self.sums[...] * faded + read

    def finish(self, o: Any, log_total: Any) -> None:
        """Writes the averages, and the logs of their denominators."""
        m, l, sums = (ref[...] for ref in self)
        total = jnp.where(l > 0, l, 1.0)
        o[...] = (sums / total).astype(o.dtype)
        log_total[...] = jnp.where(l > 0, LN2 * m + jnp.log(total), NOTHING)
