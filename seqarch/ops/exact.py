"""Products of rounded factors that are exact in float32, whatever the order of their sums.

A choice, such as a hash, must be the same in a step and in a prefill. A product in float32 differs
in its last bits with the number of rows, and a difference of one bit at a tie changes a choice. So
factors are rounded to integers with a common power of two, small enough that every partial sum of
products is an integer of at most 2^24, which float32 holds.
"""

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot
from seqarch.types import Array, Float


def exact_product(x: Float[Array, "... D"], W: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """Returns integers that are close to x W, up to a power of two for each row of x.

    It has no gradient.
    """
    bits = (24 - (len(W) - 1).bit_length()) // 2
    y = dot("nd,df->nf", _whole(x.reshape(-1, len(W)), bits, -1), _whole(W, bits))
    return y.reshape(*x.shape[:-1], -1)


def _whole(x: Float[Array, "..."], bits: int, axis: int | None = None) -> Float[Array, "..."]:
    """Returns x as integers of at most 2^bits; the largest along `axis` has `bits` bits."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    _, exponent = jnp.frexp(jnp.abs(x).max(axis, keepdims=True))
    return jnp.round(jnp.ldexp(x, bits - exponent))
