"""Reverses the tokens of right-padded rows."""

import jax.numpy as jnp

from seqarch.ops.numerics import tokens_at
from seqarch.types import Array, Float, Int


def reverse(x: Float[Array, "B T D"], lengths: Int[Array, "B"] | None) -> Float[Array, "B T D"]:
    """Returns `x` with the first lengths[b] tokens of row b in reverse order, padding where it is.

    It is its own inverse. Without `lengths` all tokens are reversed.
    """
    if lengths is None:
        return jnp.flip(x, axis=1)
    place = jnp.arange(x.shape[1])[None]
    order = jnp.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return tokens_at(x, order)
