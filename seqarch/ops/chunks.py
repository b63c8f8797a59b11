"""Arrays of tokens as chunks of them, and loops over chunks, which bound the memory at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqarch.types import Array, PyTree


def split(fill: PyTree, tokens: PyTree, chunk: int) -> PyTree:
    """Returns tokens [B, T, ...] as chunks [M, B, C, ...], padded at the end with `fill`."""
    chunk = max(1, min(chunk, tokens_of(tokens)))

    def leaf(x: Array, fill: float) -> Array:
        padding = [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding, constant_values=fill)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    return jax.tree.map(leaf, tokens, fill)


def join(outputs: PyTree, time: int) -> PyTree:
    """Returns outputs of chunks [M, B, C, ...] as [B, T, ...], without the padding."""

    def leaf(y: Array) -> Array:
        return jnp.moveaxis(y, 0, 1).reshape(y.shape[1], -1, *y.shape[3:])[:, :time]

    return jax.tree.map(leaf, outputs)


def tokens_of(tokens: PyTree) -> int:
    """Returns the number of tokens T of arrays [B, T, ...]."""
    return jax.tree.leaves(tokens)[0].shape[1]


def by_chunks(of: Callable[[PyTree], PyTree], given: PyTree, chunk: int) -> PyTree:
    """Returns `of` of chunks of tokens of the arrays [B, T, ...] in `given`, one after the other.

    Padding is -1 in arrays of integers.
    """
    fill = jax.tree.map(lambda x: -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0, given)
    return join(jax.lax.map(of, split(fill, given, chunk)), tokens_of(given))
