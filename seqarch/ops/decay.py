"""Decays between the tokens of a chunk, from cumulative sums of their logarithms.

    decay from s to t = exp(G_t - G_s),    G_t = g_1 + ... + g_t

No decay is divided by another: the exponents are differences, at most 0. A sum in float32 would be
too coarse for them, since G may reach -1000 where a difference is -1e-3. It therefore has two
parts. The coarse one is a sum of multiples of a power of two that is small enough for float32 to
hold every such sum exactly; the fine one is a sum of the small rests.
"""

import math
from collections.abc import Iterator
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

    def at(self, index: slice) -> "LogSum":
        """Returns the sums up to some of the tokens."""
        return LogSum(self.coarse[:, index], self.fine[:, index])

    @property
    def value(self) -> Array:
        """The sum itself, rounded to float32."""
        return self.coarse + self.fine

    @property
    def before(self) -> Array:
        """The sum without each token's own log-decay, rounded to float32."""
        return jnp.zeros_like(self.fine).at[:, 1:].set(self.value[:, :-1])


def log_sums(g: Float[Array, "B C H *K"]) -> LogSum:
    """Returns the cumulative sums of log-decays over a chunk."""
    g = jnp.maximum(g.astype(jnp.float32), FLOOR)
    grid = 2.0 ** (math.ceil(math.log2(-FLOOR * g.shape[1])) - 24)
    coarse = jax.lax.stop_gradient(jnp.round(g / grid) * grid)
    return LogSum(cumsum(coarse), cumsum(g - coarse))


def decayed(x: Float[Array, "B C H K"], g: Float[Array, "B C H *K"]) -> Float[Array, "B C H K"]:
    """Returns x exp(g), for g per head or per channel."""
    factor = jnp.exp(g)
    return x * (spread(factor, x.shape[-1]) if factor.ndim == 3 else factor)


def scores(
    q: Float[Array, "B C H K"],
    k: Float[Array, "B C H K"],
    p: Float[Array, "B C H K"] | None,
    r: Float[Array, "B C H K"] | None,
    sums: LogSum | None,
    visible: Bool[Array, "#B C C"],
) -> tuple[Array, Array, Array | None, Array | None]:
    """Returns the scores of q with k and with p, then those of r with k and with p.

    A score is q_t . (k_s exp(G_t - G_s)) where s is visible to t, else 0. What r reads is the state
    before its token, G_{t-1} in place of G_t and s < t: moved up by a token, it decays as q does.

    Args:
      q: queries.
      k: keys.
      p: keys at which the delta rule erases; None: k.
      r: keys at which it reads; None: there are no such scores.
      sums: the cumulative sums G of log-decays, per head or per channel; None: no decay.
      visible: for queries and keys; no key is later than a query that it is visible to.
    """
    size = q.shape[1]
    reads = q if r is None else jnp.concatenate([q, jnp.roll(r, -1, axis=1)], 1)
    writes = k if p is None else jnp.concatenate([k, p], 1)
    found = _scores(reads, writes, sums)
    pairs = found[..., :size], found[..., -size:]
    qk, qp = (jnp.where(visible[:, None], each[:, :, :size], 0.0) for each in pairs)
    if r is None:
        return qk, qp, None, None
    strict = visible & ~jnp.eye(size, dtype=bool)[None]
    moved = (jnp.roll(each[:, :, size:], 1, axis=2) for each in pairs)
    rk, rp = (jnp.where(strict[:, None], each, 0.0) for each in moved)
    return qk, qp, rk, rp


def _scores(
    q: Float[Array, "B RC H K"], k: Float[Array, "B WC H K"], sums: LogSum | None
) -> Float[Array, "B H RC WC"]:
    """Returns q_t . (k_s exp(G_t - G_s)) for all t and s <= t; the scores of later keys are finite.

    Args:
      q: queries of the chunk's C tokens, R sets of them, one behind the other.
      k: their keys, W sets of them.
      sums: the cumulative sums G [B,C,H,*K] of log-decays, per head or per channel; None: no decay.
    """
    q, k = (jnp.swapaxes(x, 1, 2) for x in (q, k))
    if sums is None:
        return _products(q, k)
    if sums.fine.ndim == 3:
        factor, size = jnp.exp(_differences(sums)), sums.fine.shape[1]
        return _products(q, k) * jnp.tile(factor, (1, 1, q.shape[2] // size, k.shape[2] // size))
    return _channel_scores(q, k, *(jnp.swapaxes(x, 1, 2) for x in sums))


def _differences(sums: LogSum) -> Float[Array, "B H C C"]:
    """Returns G_t - G_s for s <= t, and 0 for later s, for decays per head."""

    def part(sum: Float[Array, "B C H"]) -> Float[Array, "B H C C"]:
        rows = spread(jnp.moveaxis(sum, 1, 2), sum.shape[1])
        return rows - jnp.swapaxes(rows, -1, -2)

    differences = part(sums.coarse) + part(sums.fine)
    return jnp.where(jnp.tril(jnp.ones(differences.shape[2:], bool))[None, None], differences, 0.0)


@jax.custom_vjp
def _channel_scores(
    q: Float[Array, "B H RC K"],
    k: Float[Array, "B H WC K"],
    coarse: Float[Array, "B H C K"],
    fine: Float[Array, "B H C K"],
) -> Float[Array, "B H RC WC"]:
    """Returns the scores with decays per channel; those of later keys are 0."""
    found = _where(np.eye(fine.shape[2], dtype=bool), _products(q, k), 0.0)
    for factor, parted in _borders(coarse, fine):
        found = _where(parted, _products(_times(q, factor), _times(k, factor)), found)
    return found


def _borders(coarse: Array, fine: Array) -> Iterator[tuple[Float[Array, "B H C K"], np.ndarray]]:
    """Yields ways to split exp(G_t - G_s), one for each width of blocks 1, 2, 4, ...

    A token and an earlier one are parted by the border between two neighbouring blocks of just one
    width. Queries behind a border decay from there, and keys before it to there, so that one
    product gives all scores of a width, without an array of pairs and channels.

    Yields:
      The factor of each token, and which queries and keys [C, C] the width parts.
    """
    index, width = np.arange(fine.shape[2]), 1
    while width < len(index):
        block = index // width
        behind = block % 2 == 1
        since = (coarse - _at_border(coarse, width)) + (fine - _at_border(fine, width))
        factor = jnp.exp(jnp.where(behind[None, None, :, None], since, -since))
        yield factor, behind[:, None] & (block[:, None] == block + 1)
        width *= 2


def _at_border(sums: Float[Array, "B H C K"], width: int) -> Float[Array, "B H C K"]:
    """Returns for each token the sum before the border between its block and its neighbour."""
    size = sums.shape[2]
    padded = jnp.pad(sums, ((0, 0), (0, 0), (0, -size % (2 * width)), (0, 0)), mode="edge")
    pairs = padded.reshape(*sums.shape[:2], -1, 2 * width, sums.shape[3])
    border = jnp.broadcast_to(pairs[:, :, :, width - 1 : width], pairs.shape)
    return border.reshape(padded.shape)[:, :, :size]


def _channel_forward(*given: Array) -> tuple[Array, tuple[Array, ...]]:
    return _channel_scores(*given), given


def _channel_backward(given: tuple[Array, ...], d: Float[Array, "B H RC WC"]) -> tuple:
    """The gradient of G_t is q_t dq_t - k_t dk_t, without the part where t = s."""
    q, k, coarse, fine = given
    dq, dk = jnp.zeros(q.shape), jnp.zeros(k.shape)
    for factor, parted in _borders(coarse, fine):
        part = _where(parted, d, 0.0)
        dq = dq + _times(dot("bhts,bhsk->bhtk", part, _times(k, factor)), factor)
        dk = dk + _times(dot("bhts,bhtk->bhsk", part, _times(q, factor)), factor)
    d_fine = _sets(q * dq, fine).sum(2) - _sets(k * dk, fine).sum(2)
    own = _where(np.eye(fine.shape[2], dtype=bool), d, 0.0)  # t = s
    dq = dq + dot("bhts,bhsk->bhtk", own, k)
    dk = dk + dot("bhts,bhtk->bhsk", own, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), jnp.zeros_like(coarse), d_fine


_channel_scores.defvjp(_channel_forward, _channel_backward)


def _products(q: Float[Array, "B H T K"], k: Float[Array, "B H S K"]) -> Float[Array, "B H T S"]:
    return dot("bhtk,bhsk->bhts", q, k)


def _sets(x: Float[Array, "B H RC K"], of: Float[Array, "B H C K"]) -> Float[Array, "B H R C K"]:
    """Returns the sets that stand one behind the other in `x`, each as long as `of`."""
    return x.reshape(*x.shape[:2], -1, *of.shape[2:])


def _times(x: Float[Array, "B H RC K"], factor: Float[Array, "B H C K"]) -> Array:
    """Returns each of the sets in `x` times a factor."""
    return (_sets(x, factor) * factor[:, :, None]).reshape(x.shape)


def _where(pairs: np.ndarray, found: Float[Array, "B H RC WC"], other: Array | float) -> Array:
    """Returns the scores of some pairs [C, C] of tokens, in all sets, and `other` elsewhere."""
    sets = [size // len(pairs) for size in found.shape[2:]]
    return jnp.where(np.tile(pairs, sets)[None, None], found, other)


def widened(g: Float[Array, "..."]) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """Returns log |2 a - 1| and whether 2 a - 1 is negative, for a = exp(g) in (0, 1).

    The logarithm is at least log LEAST, where it has no derivative.
    """
    a = 2 * jnp.expm1(g) + 1
    return jnp.log(jnp.maximum(jnp.abs(a), LEAST)), a < 0
