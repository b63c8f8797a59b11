"""Products of rounded factors that are exact in float32, whatever the order of their sums.

A choice, such as a hash, must be the same in a step and in a prefill. A product in float32 differs
in its last bits with the number of rows, and a difference of one bit at a tie changes a choice. So
factors are rounded to integers times a power of two, small enough that every partial sum of
products is an integer of at most 2^24, which float32 holds. These functions have no gradient.
"""

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot
from seqarch.types import Array, Float, Int


def exact_product(x: Float[Array, "... D"], W: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """Returns x W, of which rows of x are rounded apart from each other, and W as a whole."""
    bits = _bits(len(W))
    (x, of_x), (W, of_W) = _whole(x, bits, -1), _whole(W, bits)
    y = dot("nd,df->nf", x.reshape(-1, len(W)), W).reshape(*x.shape[:-1], -1)
    return jnp.ldexp(y, of_x + of_W.reshape((1,) * x.ndim))


def exact_scores(q: Float[Array, "B T K"], k: Float[Array, "B S K"]) -> Float[Array, "B T S"]:
    """Returns the products of queries and keys, each of which is rounded apart from the others."""
    bits = _bits(q.shape[-1])
    (q, of_q), (k, of_k) = _whole(q, bits, -1), _whole(k, bits, -1)
    return jnp.ldexp(dot("btk,bsk->bts", q, k), of_q + of_k.swapaxes(1, 2))


def whole_numbers(W: Float[Array, "D F"]) -> Float[Array, "D F"]:
    """Returns W up to a power of two, as integers, so that sums of some columns are exact, too."""
    return _whole(W, _bits(len(W)))[0]


def _bits(terms: int) -> int:
    """Returns the bits of factors of which `terms` products have an exact sum."""
    return (24 - (terms - 1).bit_length()) // 2


def _whole(
    x: Float[Array, "..."], bits: int, axis: int | None = None
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """Returns x as integers of at most 2^bits, and the power of two that they are multiplied with.

    The largest integer along `axis` has all bits.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    _, exponent = jnp.frexp(jnp.abs(x).max(axis, keepdims=True))
    return jnp.round(jnp.ldexp(x, bits - exponent)), exponent - bits
