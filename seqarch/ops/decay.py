"""Decays per head between the tokens of a chunk, from cumulative sums of their logarithms.

    decay from s to t = exp(G_t - G_s),    G_t = g_1 + ... + g_t

No decay is divided by another: the exponents are differences, at most 0. A sum in float32 would be
too coarse for them, since G may reach -1000 where a difference is -1e-3. It therefore has two
parts. The coarse one is a sum of multiples of a power of two that is small enough for float32 to
hold every such sum exactly; the fine one is a sum of the small rests.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import cumsum, dot, spread
from seqarch.types import Array, Bool, Float

FLOOR = -128.0  # logarithms below are raised to it; exp(-104) is 0 in float32
LEAST = 1e-6  # size of a decay that may be negative


class LogSum(NamedTuple):
    """A cumulative sum of log-decays, coarse + fine."""

    coarse: Float[Array, "B C H"]
    fine: Float[Array, "B C H"]

    def minus(self, other: "LogSum") -> Array:
        """Returns the difference of two sums, which is as exact as a sum of its own terms."""
        return (self.coarse - other.coarse) + (self.fine - other.fine)

    def at(self, index: slice) -> "LogSum":
        """Returns the sums up to some of the tokens."""
        return LogSum(self.coarse[:, index], self.fine[:, index])

    @property
    def value(self) -> Array:
        """The sum itself, rounded to float32."""
        return self.coarse + self.fine


def log_sums(g: Float[Array, "B C H"]) -> LogSum:
    """Returns the cumulative sums of log-decays over a chunk."""
    g = jnp.maximum(g.astype(jnp.float32), FLOOR)
    grid = 2.0 ** (math.ceil(math.log2(-FLOOR * g.shape[1])) - 24)
    coarse = jax.lax.stop_gradient(jnp.round(g / grid) * grid)
    return LogSum(cumsum(coarse), cumsum(g - coarse))


class Within(NamedTuple):
    """What a chunk's tokens read of each other and of the state, with decays.

    scores: q_t . (k_s exp(G_t - G_s)) of each set of reads and of writes where s <= t; those of
      later keys are finite
    reads: decayed from the start of the chunk
    writes: decayed to its end
    decay: over the chunk
    """

    scores: Float[Array, "B H R W C C"]
    reads: Float[Array, "R B C H K"]
    writes: Float[Array, "W B C H K"]
    decay: Float[Array, "B H *K"]


def by_head(
    reads: Sequence[Float[Array, "B C H K"]],
    writes: Sequence[Float[Array, "B C H K"]],
    g: Float[Array, "B C H"] | None,
) -> Within:
    """Returns a chunk with decays per head; g is their logarithms, None for no decay."""
    R, W, (B, C, H, _) = len(reads), len(writes), reads[0].shape
    q, k = (jnp.swapaxes(jnp.concatenate(sets, 1), 1, 2) for sets in (reads, writes))
    scores, decay = dot("bhtk,bhsk->bhts", q, k), jnp.ones((1, 1))
    if g is not None:
        sums = log_sums(g)
        scores = scores * jnp.tile(jnp.exp(_differences(sums)), (1, 1, R, W))
        since, until = jnp.exp(sums.value), jnp.exp(sums.at(slice(-1, None)).minus(sums))
        reads, writes = (
            [x * spread(factor, x.shape[-1]) for x in sets]
            for sets, factor in ((reads, since), (writes, until))
        )
        decay = since[:, -1]
    return Within(jnp.swapaxes(scores.reshape(B, H, R, C, W, C), 3, 4), reads, writes, decay)


def _differences(sums: LogSum) -> Float[Array, "B H C C"]:
    """Returns G_t - G_s for s <= t, and 0 for later s, for decays per head."""

    def part(sum: Float[Array, "B C H"]) -> Float[Array, "B H C C"]:
        rows = spread(jnp.moveaxis(sum, 1, 2), sum.shape[1])
        return rows - jnp.swapaxes(rows, -1, -2)

    differences = part(sums.coarse) + part(sums.fine)
    return jnp.where(jnp.tril(jnp.ones(differences.shape[2:], bool))[None, None], differences, 0.0)


def widened(g: Float[Array, "..."]) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """Returns log |2 a - 1| and whether 2 a - 1 is negative, for a = exp(g) in (0, 1).

    The logarithm is at least log LEAST, where it has no derivative.
    """
    a = 2 * jnp.expm1(g) + 1
    return jnp.log(jnp.maximum(jnp.abs(a), LEAST)), a < 0
