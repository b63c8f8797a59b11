"""Decays between the tokens of a chunk, from cumulative sums of their logarithms.

    decay from s to t = exp(G_t - G_s),    G_t = g_1 + ... + g_t

No decay is divided by another: the exponents are differences, at most 0. A sum in float32 would be
too coarse for them, since G may reach -1000 where a difference is -1e-3. It therefore has two
parts. The coarse one is a sum of multiples of a power of two that is small enough for float32 to
hold every such sum exactly; the fine one is a sum of the small rests.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.ops.numerics import cumsum, dot, spread
from seqarch.types import Array, Bool, Float

FLOOR = -128.0  # logarithms below are raised to it; exp(-104) is 0 in float32
LEAST = 1e-6  # size of a decay that may be negative


class LogSum(NamedTuple):
    """A cumulative sum of log-decays, coarse + fine."""

    coarse: Float[Array, "B C H *K"]
    fine: Float[Array, "B C H *K"]

    def minus(self, other: "LogSum") -> Array:
        """Returns the difference of two sums, which is as exact as a sum of its own terms."""
        return (self.coarse - other.coarse) + (self.fine - other.fine)

    def at(self, index: slice | np.ndarray) -> "LogSum":
        """Returns the sums up to some of the tokens."""
        return LogSum(self.coarse[:, index], self.fine[:, index])

    @property
    def value(self) -> Array:
        """The sum itself, rounded to float32."""
        return self.coarse + self.fine


def log_sums(g: Float[Array, "B C H *K"]) -> tuple[LogSum, LogSum]:
    """Returns the cumulative sums of log-decays over a chunk, with and without each token's own."""
    g = jnp.maximum(g.astype(jnp.float32), FLOOR)
    grid = 2.0 ** (math.ceil(math.log2(-FLOOR * g.shape[1])) - 24)
    coarse = jax.lax.stop_gradient(jnp.round(g / grid) * grid)
    own = LogSum(coarse, g - coarse)
    after = LogSum(*map(cumsum, own))
    return after, LogSum(*(a - b for a, b in zip(after, own)))


def decayed(x: Float[Array, "B C H K"], g: Float[Array, "B C H *K"]) -> Float[Array, "B C H K"]:
    """Returns x exp(g), for g per head or per channel."""
    factor = jnp.exp(g)
    return x * (spread(factor, x.shape[-1]) if factor.ndim == 3 else factor)


def scores(
    q: Float[Array, "B C H K"],
    to: LogSum | None,
    k: Float[Array, "B C H K"],
    since: LogSum | None,
    visible: Bool[Array, "#B C C"],
) -> Float[Array, "B H C C"]:
    """Returns q_t . (k_s exp(to_t - since_s)) where s is visible to t, else 0.

    Args:
      q: what is compared with keys.
      to: log-decays up to each query, per head or per channel; None: no decay.
      k: keys.
      since: log-decays up to each key.
      visible: for queries and keys; no key is later than a query that it is visible to.
    """
    visible = visible[:, None]
    if to is None:
        return jnp.where(visible, _products(q, k), 0.0)
    if to.fine.ndim == 3:
        exponent = jnp.where(visible, _differences(to, since), 0.0)
        return jnp.where(visible, _products(q, k) * jnp.exp(exponent), 0.0)
    return jnp.where(visible, _channel_scores(q, to, k, since), 0.0)


def _differences(to: LogSum, since: LogSum) -> Float[Array, "B H C C"]:
    """Returns to_t - since_s for decays per head."""

    def part(to: Array, since: Array) -> Array:
        rows, columns = (jnp.moveaxis(x, 1, 2) for x in (to, since))
        size = rows.shape[-1]
        return spread(rows, size) - jnp.swapaxes(spread(columns, size), -1, -2)

    return part(to.coarse, since.coarse) + part(to.fine, since.fine)


def _channel_scores(q: Array, to: LogSum, k: Array, since: LogSum) -> Float[Array, "B H C C"]:
    """Returns the scores with decays per channel; those of later keys mean nothing.

    A token and an earlier one are parted by the border between two neighbouring blocks of some
    width 1, 2, 4, ... Both sides decay to that border, so that one product gives all scores of a
    width, without an array of pairs and channels.
    """
    index = np.arange(q.shape[1])
    found = jnp.where(np.eye(len(index), dtype=bool)[None, None], _products(q, k), 0.0)
    width = 1
    while width < len(index):
        block = index // width
        border = since.at(np.minimum(block // 2 * 2 * width + width, len(index)) - 1)
        upper = (block % 2 == 1)[None, :, None, None]
        now = q * jnp.exp(jnp.where(upper, to.minus(border), 0.0))
        past = k * jnp.exp(jnp.where(upper, 0.0, border.minus(since)))
        parted = upper[0, :, 0] & (block[:, None] == block + 1)
        found = jnp.where(parted[None, None], _products(now, past), found)
        width *= 2
    return found


def _products(q: Float[Array, "B C H K"], k: Float[Array, "B C H K"]) -> Float[Array, "B H C C"]:
    return dot("bthk,bshk->bhts", q, k)


def widened(g: Float[Array, "..."]) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """Returns log |2 a - 1| and whether 2 a - 1 is negative, for a = exp(g) in (0, 1).

    The logarithm is at least log LEAST, where it has no derivative.
    """
    a = 2 * jnp.expm1(g) + 1
    return jnp.log(jnp.maximum(jnp.abs(a), LEAST)), a < 0
