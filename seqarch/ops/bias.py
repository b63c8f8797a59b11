"""Terms that are added to the scores of attention, per head: ALiBi and forget gates.

    ALiBi           -m_h |i - j|,   m_h = 2^(-8 h / H),   h = 1 .. H
    forget gates    sum_{l = j+1 .. i} log f_l  =  c_i - c_j

A cumulative sum c in float32 would lose the difference of neighbours once it is large: at a million
it is a multiple of 1/16. So it is kept as an integer and a fraction, whose differences are exact to
1e-7 wherever they are small. A cache keeps, for each key, the sum from it to the newest token.

Source: Press et al. 2022, "Train short, test long", section 3; Lin et al. 2025, "Forgetting
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


def forget(q: Gates, k: Gates) -> Float[Array, "B G N S"]:
    """Returns the bias c_i - c_j of queries with sums [B,G,N] for keys with sums [B,G,R,S].

    N = R C, since the queries of R heads share the keys, but not their gates.
    """
    B, G, R, S = k.part.shape
    over = jax.tree.map(lambda x: x.reshape(B, G, R, -1, 1), q)
    return difference(over, jax.tree.map(lambda x: x[:, :, :, None], k)).reshape(B, G, -1, S)
