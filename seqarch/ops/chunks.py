"""A loop over chunks of tokens, which bounds the memory that they need at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqarch.types import Array, PyTree


def by_chunks(of: Callable[[PyTree], PyTree], given: PyTree, chunk: int) -> PyTree:
    """Returns `of` of chunks of tokens of the arrays [B,T,...] in `given`, one after the other.

    Padding is -1 in arrays of integers.
    """
    T = jax.tree.leaves(given)[0].shape[1]
    chunk = max(1, min(chunk, T))

    def cut(x: Array) -> Array:
        pad = [(0, 0), (0, -T % chunk), *[(0, 0)] * (x.ndim - 2)]
        fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
        x = jnp.pad(x, pad, constant_values=fill)
        return jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(len(x), -1, *x.shape[3:])[:, :T]

    return jax.tree.map(join, jax.lax.map(of, jax.tree.map(cut, given)))
