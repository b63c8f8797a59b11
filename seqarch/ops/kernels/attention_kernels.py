"""Kernels of attention for a TPU, by blocks that stay in its fast memory.

They are the online softmax of the blockwise form, with one turn for each pair of blocks that may
see each other. Blocks of scores have keys as rows and queries as columns: maxima and sums over keys
then run over rows, and what belongs to a query is a row that broadcasts over rows, both of which
are cheap on a TPU. Scores are logarithms to base 2, whose exponential a TPU has.

Source: Dao et al. 2022, "FlashAttention", algorithms 1 and 4.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.block_pairs import FIRST, LAST, NEW, OVER
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.ops.online_softmax import NOTHING
from seqarch.types import Array, Float

LN2 = math.log(2.0)
LOWEST = NOTHING / 2  # where a maximum begins: above what is masked, below every score


class How(NamedTuple):
    """What is fixed when a kernel is compiled.

    Attributes:
      size: tokens of a block.
      causal: whether a query sees no later token.
      window: tokens that it sees, its own included, where it is causal; None: all.
      scale: factor of the products of queries and keys.
      heads: query heads of a block of heads, which are side by side in its lanes.
      share: query heads that share a key head; 1 where a block has several.
      lanes: channels of a block of heads, of queries and keys, and of values.
      first: number of the first block of queries whose gradients are computed.
      half: distance of the two channels of a pair that is rotated.
    """

    size: int
    causal: bool
    window: int | None
    scale: float
    heads: int
    share: int
    lanes: tuple[int, int]
    first: int = 0
    half: int = 0

    def scaled(self, q: Float[Array, "T K"]) -> Float[Array, "T K"]:
        """Returns queries whose products with keys are scores to base 2."""
        return (q.astype(jnp.float32) * (self.scale / LN2)).astype(q.dtype)

    def exchanged(self, x: Float[Array, "T K"]) -> Float[Array, "T K"]:
        """Returns float32 channels with those of each pair exchanged."""
        lanes, width = x.shape[1], x.shape[1] // self.heads
        if 2 * self.half == lanes:
            return pltpu.roll(x, self.half, 1)
        lane = iota(x.shape, COLUMNS)
        if self.heads > 1:
            lane &= width - 1  # a power of 2
        before, after = pltpu.roll(x, lanes - self.half, 1), pltpu.roll(x, self.half, 1)
        return jnp.where(lane < self.half, before, after)

    def of_head(self, x: Float[Array, "T K"], head: int) -> Float[Array, "T K"]:
        """Returns a block of heads with zeros for the others."""
        if self.heads == 1:
            return x
        size = x.shape[1] // self.heads
        lane = iota(x.shape, COLUMNS)
        return jnp.where((lane >= head * size) & (lane < (head + 1) * size), x, jnp.zeros_like(x))

    def rows_of(self, head: int, rows: int) -> slice:
        """Returns the rows of a head in a block of heads whose rows are channels."""
        size = rows // self.heads
        return slice(head * size, (head + 1) * size)


class Turn(NamedTuple):
    """The turn of a kernel for one pair of blocks.

    Attributes:
      number: that of the pair.
      tables: those of Pairs, and whether it may have something visible.
      documents: of the queries and of the keys; None: one.
      factors: own and other of queries, then of keys, that rotate them; None: they are not rotated.
    """

    number: Any
    tables: list[Any]
    documents: Any
    factors: Any

    def rotated(self, x: Array, which: int, how: How, *, back: bool = False) -> Array:
        """Returns queries (`which` = 0) or keys (1) rotated in float32, or as they are.

        Args:
          x: [T, K].
          which: of the two.
          how: what is fixed.
          back: whether to rotate the other way, as a gradient is.
        """
        if self.factors is None:
            return x
        own, other = (ref[...] for ref in self.factors[2 * which : 2 * which + 2])
        x = x.astype(jnp.float32)
        turned = how.exchanged(x) * other
        return x * own - turned if back else x * own + turned

    def at(self, edge: int) -> Any:
        """Returns whether the turn is at an edge."""
        return (self.tables[2][self.number] & edge) != 0

    def when_visible(self, compute: Callable[[], None]) -> None:
        """Runs `compute` unless nothing of the pair is visible."""
        if self.documents is None:
            compute()
        else:
            pl.when(self.tables[4][pl.program_id(0), self.number] != 0)(compute)

    def seen(self, q_block: Any, k_block: Any, how: How) -> Array | None:
        """Returns whether each query sees each key [keys, queries]; None: all see all."""
        seen = None
        if how.causal:
            query, key = (iota((how.size,) * 2, axis) for axis in (COLUMNS, ROWS))
            ahead, start = query - key, how.size * (k_block - q_block)
            seen = ahead >= start
            if how.window is not None:
                seen &= ahead < start + how.window
        if self.documents is not None:
            q, k = (ref[...] for ref in self.documents)
            same = jnp.tile(k, (1, how.size // LANES)) == q
            seen = same if seen is None else seen & same
        return seen


def _masked(scores: Array, seen: Array | None) -> Array:
    return scores if seen is None else jnp.where(seen, scores, NOTHING)


def forward_kernel(how: How, turn: Turn, inputs: Any, outputs: Any, scratch: Any) -> None:
    (q, k, v), (o, log_total), (top, total, sums, queries) = inputs, outputs, scratch

    @pl.when(turn.at(FIRST))
    def _():
        top[...] = jnp.full_like(top, LOWEST)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)
        queries[...] = how.scaled(turn.rotated(q[...], 0, how)).astype(queries.dtype)

    @turn.when_visible
    def _():
        keys, values = turn.rotated(k[...], 1, how).astype(k.dtype), v[...].T
        blocks = [turn.tables[which][turn.number] for which in (0, 1)]
        seen = turn.seen(*blocks, how)
        for head in range(how.heads):
            own = how.rows_of(head, len(values))
            scores = _masked(product(keys, how.of_head(queries[...], head), COLUMNS, COLUMNS), seen)
            before = top[head]
            highest = jnp.maximum(before, scores.max(0, keepdims=True))
            weights, fade = jnp.exp2(scores - highest), jnp.exp2(before - highest)
            top[head] = highest
            total[head] = total[head] * fade + weights.sum(0, keepdims=True)
            sums[own] = sums[own] * fade + product(
                values[own], weights.astype(v.dtype), COLUMNS, ROWS
            )

    @pl.when(turn.at(LAST))
    def _():
        for head in range(how.heads):
            own, some = how.rows_of(head, len(sums)), total[head] > 0
            whole = jnp.where(some, total[head], 1.0)
            sums[own] = sums[own] / whole
            log_total[head] = jnp.where(some, top[head] + jnp.log2(whole), NOTHING)
        o[...] = sums[...].T.astype(o.dtype)


def backward_kernel(how: How, turn: Turn, inputs: Any, outputs: Any, scratch: Any) -> None:
    q, k, v, o, do, log_total, d_log_total, *before = inputs
    (dq, dk, dv), (keys, across, dq_sums, along, dk_sums, dv_sums) = outputs, scratch
    k_block, q_block = (turn.tables[which][turn.number] for which in (0, 1))
    place = q_block - how.first

    @pl.when(turn.at(FIRST))
    def _():
        keys[...] = turn.rotated(k[...], 1, how).astype(keys.dtype)
        across[...] = keys[...].T
        dk_sums[...] = jnp.zeros_like(dk_sums)
        dv_sums[...] = jnp.zeros_like(dv_sums)

    @pl.when(turn.at(NEW))
    def _():
        dq_sums[place] = jnp.zeros(dq_sums.shape[1:], jnp.float32)
        products = (do[...].astype(jnp.float32) * o[...].astype(jnp.float32)).T
        for head in range(how.heads):
            own = products[how.rows_of(head, len(products))]
            along[place, head] = own.sum(0, keepdims=True) - d_log_total[head]

    @turn.when_visible
    def _():
        queries = how.scaled(turn.rotated(q[...], 0, how)).astype(q.dtype)
        seen = turn.seen(q_block, k_block, how)
        for head in range(how.heads):
            of_q, of_do = how.of_head(queries, head), how.of_head(do[...], head)
            scores = _masked(product(keys[...], of_q, COLUMNS, COLUMNS), seen)
            most = jnp.where(log_total[head] > NOTHING, log_total[head], -NOTHING)
            weights = jnp.exp2(scores - most)
            dv_sums[...] += product(weights.astype(v.dtype), of_do, COLUMNS, ROWS)
            d = weights * (product(v[...], of_do, COLUMNS, COLUMNS) - along[place, head])
            d, own = d.astype(q.dtype), how.rows_of(head, len(across))
            dk_sums[...] += product(d, of_q, COLUMNS, ROWS)
            dq_sums[place, own] += product(across[own], d, COLUMNS, ROWS)

    @pl.when(turn.at(OVER))
    def _():
        d = (dq_sums[place] * how.scale).T
        dq[...] = turn.rotated(d, 0, how, back=True).astype(dq.dtype)

    @pl.when(turn.at(LAST))
    def _():
        d = turn.rotated(dk_sums[...] * LN2, 1, how, back=True), dv_sums[...]
        if before:
            d = [x + sums[...] for x, sums in zip(d, before[1:], strict=True)]
        for ref, x in zip((dk, dv), d, strict=True):
            ref[...] = x.astype(ref.dtype)
