"""Terms that are added to the scores of attention, per head: by distance, and forget gates.

    ALiBi           -m_h |i - j|,   m_h = 2^(-8 h / H),   h = 1 .. H
    relative        r_h[clip(j - i, -F, F)],   a learned value of each distance up to F; T5 learns
                    one of each of a few `buckets` of distances
    forget gates    sum_{l = j+1 .. i} log f_l  =  c_i - c_j

A cumulative sum c in float32 would lose the difference of neighbours once it is large: at a million
it is a multiple of 1/16. So it is kept as an integer and a fraction, whose differences are exact to
1e-7 wherever they are small. A cache keeps, for each key, the sum from it to the newest token.

Source: Press et al. 2022, "Train short, test long", section 3; Raffel et al. 2020, "Exploring the
limits of transfer learning with a unified text-to-text transformer", section 2.1, and its code
(mesh_tensorflow, `_relative_position_bucket`); Lin et al. 2025, "Forgetting
transformer".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.types import Array, Float, Int


class Gates(NamedTuple):
    """The cumulative logs c of gates: the sum of the two arrays.

    whole: the integer
    part: the fraction, in [-1/2, 1/2]
    """

    whole: Int[Array, "..."]
    part: Float[Array, "..."]


def slopes(heads: int) -> np.ndarray:
    """Returns the slopes m_h [H] of ALiBi."""
    return np.float32(2.0) ** (-8 * np.arange(1, heads + 1, dtype=np.float32) / heads)


@jax.custom_vjp
def cumulate(log_gate: Float[Array, "B T H"]) -> Gates:
    """Returns the cumulative sums of `log_gate` over tokens; they have shape [B,T,H]."""
    gates = _carried(jnp.zeros(log_gate.shape, jnp.int32), log_gate.astype(jnp.float32))
    return jax.lax.associative_scan(_add, gates, axis=1)


def _add(a: Gates, b: Gates) -> Gates:
    return _carried(a.whole + b.whole, a.part + b.part)


def _carried(whole: Array, part: Array) -> Gates:
    carry = jnp.round(part)
    return Gates(whole + carry.astype(jnp.int32), part - carry)


def _cumulate_backward(like: Array, d: Gates) -> tuple[Array]:
    return (jax.lax.cumsum(d.part, axis=1, reverse=True).astype(like.dtype),)


cumulate.defvjp(lambda log_gate: (cumulate(log_gate), log_gate[:0]), _cumulate_backward)


def difference(a: Gates, b: Gates) -> Float[Array, "..."]:
    """Returns a - b."""
    return (a.whole - b.whole).astype(jnp.float32) + (a.part - b.part)


def alibi(
    slope: Float[Array, "G N"], q_pos: Int[Array, "B N"], k_pos: Int[Array, "B S"]
) -> Float[Array, "B G N S"]:
    """Returns the bias of ALiBi; the positions of absent tokens mean nothing."""
    distance = jnp.abs(q_pos[:, :, None] - k_pos[:, None, :]).astype(jnp.float32)
    return -slope[None, :, :, None] * distance[:, None]


FARTHEST = 128  # F, the distance from which on T5 has one bucket


def buckets(count: int, causal: bool) -> np.ndarray:
    """Returns T5's bucket of each distance j - i from -FARTHEST to FARTHEST, as [2 F + 1].

    Half of the buckets of a direction have one distance each, the others grow as its logarithm.

    Args:
      count: of all buckets.
      causal: whether the keys j > i are never seen; otherwise the second half is theirs.
    """
    distance = np.arange(-FARTHEST, FARTHEST + 1)
    own = count if causal else count // 2
    size = np.maximum(-distance, 0) if causal else np.abs(distance)
    exact = own // 2
    growth = np.log(np.maximum(size, 1) / exact) / np.log(FARTHEST / exact)
    large = exact + np.floor(growth * (own - exact) + 1e-9).astype(int)
    found = np.where(size < exact, size, np.minimum(large, own - 1))
    return found if causal else found + own * (distance > 0)


def relative(
    by_distance: Float[Array, "G R W"], q_pos: Int[Array, "B N"], k_pos: Int[Array, "B S"]
) -> Float[Array, "B G N S"]:
    """Returns the learned bias of each distance; the positions of absent tokens mean nothing.

    Args:
      by_distance: r_h of the distances -F to F, of R query heads for each key head; W = 2 F + 1.
      q_pos: of the queries, N = R C, the same for all heads.
      k_pos: of the keys.
    """
    G, R, W = by_distance.shape
    B, far = len(q_pos), W // 2
    distance = k_pos[:, None, :] - q_pos.reshape(B, R, -1)[:, 0, :, None]
    found = by_distance[:, :, jnp.clip(distance, -far, far) + far]
    return jnp.moveaxis(found, 2, 0).reshape(B, G, -1, k_pos.shape[1])


def forget(q: Gates, k: Gates) -> Float[Array, "B G N S"]:
    """Returns the bias c_i - c_j of queries with sums [B,G,N] for keys with sums [B,G,R,S].

    N = R C, since the queries of R heads share the keys, but not their gates.
    """
    B, G, R, S = k.part.shape
    over = jax.tree.map(lambda x: x.reshape(B, G, R, -1, 1), q)
    return difference(over, jax.tree.map(lambda x: x[:, :, :, None], k)).reshape(B, G, -1, S)
