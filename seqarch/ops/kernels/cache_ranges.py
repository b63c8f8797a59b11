"""Attention of one token a row to some ranges of a key/value cache, by a kernel for a TPU.

Only the blocks of slots that hold a range pass through fast memory, one a turn, so that a token
costs what its ranges hold, whatever the cache holds. A gather has a layout of its own, into which
it would copy the whole cache of narrow heads (seqarch.ops.cache_slots).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.cache_slots import is_narrow
from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.attention_kernels import LN2
from seqarch.ops.kernels.block_pairs import WORDS
from seqarch.ops.kernels.cache_attention import LEAST, Online
from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota
from seqarch.ops.numerics import dot, fill
from seqarch.ops.online_softmax import Partial, absorb, empty, finish
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.types import Array, Float, Int

SLOTS = LANES  # of a block


class Ranges(NamedTuple):
    """Ranges of positions, each of which lies in one block of SLOTS.

    low: the first position, at least 0
    high: the one behind the last; no more than `low` where nothing is seen
    """

    low: Int[Array, "B G N"]
    high: Int[Array, "B G N"]


def block_ranges(
    position: Int[Array, "B T"], blocks: Int[Array, "B T G N"], size: int, window: int | None
) -> Ranges:
    """Returns what the first token of each row sees of some blocks.

    Args:
      position: of the tokens.
      blocks: numbers of blocks; -1 for none.
      size: tokens of a block, which divides SLOTS.
      window: positions that a token sees, its own included; None: all before it.
    """
    own, low = position[:, 0, None, None], size * blocks[:, 0]
    high = jnp.minimum(low + size, own + 1)
    if window is not None:
        low = jnp.maximum(low, own + 1 - window)
    return Ranges(jnp.maximum(low, 0), high)


def takes(tokens: int, ranges: Ranges) -> bool:
    """Returns whether the kernel has so many tokens a row, and memory for the tables of a row."""
    fits = len(ranges) * ranges.low[0].size <= WORDS
    return tokens == 1 and len(ranges.low) % row_devices() == 0 and fits


@jax.custom_vjp
def attend_ranges(
    q: Float[Array, "B 1 H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    k_pos: Int[Array, "B S"],
    ranges: Ranges,
) -> Partial:
    """Returns attention of each query to the ranges of its key head.

    Args:
      q: queries.
      k: cached keys, of which position p is in slot p.
      v: cached values.
      k_pos: positions of the slots; -1 where a slot is empty.
      ranges: a slot may be in one of them at most.
    """
    (B, _, H, K), G = q.shape, k.shape[1]
    grouped = q.reshape(B, G, H // G, K)
    rows = fill(grouped, 2, LEAST), k, v, k_pos[:, None], *ranges
    o, log_total = by_rows(lambda rows, _: _by_groups(*rows), rows, None)
    back = lambda x: x[:, :, : H // G].reshape(B, 1, H, -1)
    return Partial(back(o), back(log_total)[..., 0])


def definition(q: Array, k: Array, v: Array, k_pos: Array, ranges: Ranges) -> Partial:
    """Returns what `attend_ranges` does, with scores of all slots."""
    (B, _, H, K), (G, S) = q.shape, k.shape[1:3]
    slot = jnp.arange(S).reshape(1, 1, 1, -1)
    seen = (slot >= ranges.low[..., None]) & (slot < ranges.high[..., None])
    seen = seen.any(2) & (k_pos[:, None] == slot[0])
    flat = lambda x: x.reshape(B * G, 1, *x.shape[2:])
    scores = dot("bgrk,bgsk->bgrs", q.reshape(B, G, -1, K) * K**-0.5, k.astype(q.dtype))
    seen = jnp.broadcast_to(flat(seen), (B * G, H // G, S))
    running = empty((B * G, 1, H // G), v.shape[-1])
    o, log_total = finish(absorb(running, flat(scores), flat(v.astype(q.dtype)), seen), q.dtype)
    return Partial(o.reshape(B, 1, H, -1), log_total.reshape(B, 1, H))


def _forward(*given):
    return attend_ranges(*given), given


def _backward(given, cotangents):
    q, k, v, k_pos, ranges = given
    _, pull = jax.vjp(lambda *qkv: definition(*qkv, k_pos, ranges), q, k, v)
    return *pull(cotangents), None, None


attend_ranges.defvjp(_forward, _backward)


def _by_groups(q, k, v, k_pos, low, high) -> tuple[Array, ...]:
    """Returns the averages and logs, of as many rows at once as tables fit."""
    group, found = WORDS // (2 * low[0].size), []
    for first in range(0, len(q), group):
        rows = slice(first, first + group)
        found.append(_call(first, q[rows], k, v, k_pos, low[rows], high[rows]))
    return tuple(jnp.concatenate(each) for each in zip(*found, strict=True))


def _call(
    first: int, q: Array, k: Array, v: Array, k_pos: Array, low: Array, high: Array
) -> tuple[Float[Array, "B G R K"], Float[Array, "B G R 1"]]:
    """Returns the averages, and the logs of their denominators, for rows from `first` on."""
    (B, G, R, K), S, N, channels = q.shape, k.shape[2], low.shape[2], COLUMNS

    def at(b: Array, g: Array, n: Array, low: Any) -> Array:
        block = jax.lax.div(low[(b * G + g) * N + n], jnp.int32(SLOTS))
        return jnp.minimum(block, (S - 1) // SLOTS)

    shape = None, None, SLOTS, K
    of = lambda b, g, n, low, _: (first + b, g, at(b, g, n, low), 0)
    if is_narrow(k):
        k, v, channels = k.swapaxes(2, 3), v.swapaxes(2, 3), ROWS
        shape = None, None, K, SLOTS
        of = lambda b, g, n, low, _: (first + b, g, 0, at(b, g, n, low))
    cached = pl.BlockSpec(shape, of)
    own = lambda width: pl.BlockSpec((None, None, R, width), lambda b, g, n, *_: (b, g, 0, 0))
    there = pl.BlockSpec((None, 1, SLOTS), lambda b, g, n, low, _: (first + b, 0, at(b, g, n, low)))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(B, G, N),
        in_specs=[own(K), cached, cached, there],
        out_specs=[own(K), own(1)],
        scratch_shapes=[pltpu.VMEM((R, width), jnp.float32) for width in (1, 1, K)],
    )
    made = lambda width, dtype: jax.ShapeDtypeStruct((B, G, R, width), dtype)
    return kernel_call(
        partial(_body, S, channels),
        grid_spec=grid,
        out_shape=[made(K, q.dtype), made(1, jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        name="cache_ranges",
    )(low.reshape(-1), high.reshape(-1), q, k, v, k_pos)


def _body(slots: int, channels: int, low, high, q, k, v, k_pos, o, log_total, *running) -> None:
    b, g, n = (pl.program_id(axis) for axis in range(3))
    place = (b * pl.num_programs(1) + g) * pl.num_programs(2) + n
    online = Online(*running)
    pl.when(n == 0)(online.begin)

    @pl.when(low[place] < high[place])
    def read():
        start = jax.lax.div(low[place], jnp.int32(SLOTS)) * SLOTS
        slot = start + iota((1, SLOTS), COLUMNS)
        seen = (slot >= low[place]) & (slot < high[place]) & (k_pos[...] == slot)
        values = v[...].astype(q.dtype)
        if slots % SLOTS:  # the last block reaches beyond the cache
            there = start + iota(values.shape, 1 - channels) < slots
            values = jnp.where(there, values, jnp.zeros_like(values))
        online.absorb(q[...], k[...], values, seen, q.shape[1] ** -0.5 / LN2, channels)

    @pl.when(n == pl.num_programs(2) - 1)
    def end():
        online.finish(o, log_total)
