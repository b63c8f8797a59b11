"""Arrays of tokens as chunks of them, and loops over chunks, which bound the memory at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import fill
from seqarch.types import Array, PyTree


def split(padding: PyTree, tokens: PyTree, chunk: int) -> PyTree:
    """Returns tokens [B, T, ...] as chunks [M, B, C, ...], with `padding` at the end."""
    chunk = max(1, min(chunk, tokens_of(tokens)))

    def leaf(x: Array, value: float) -> Array:
        x = fill(x, 1, chunk, value)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    return jax.tree.map(leaf, tokens, padding)


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
    padding = jax.tree.map(lambda x: -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0, given)
    return join(jax.lax.map(of, split(padding, given, chunk)), tokens_of(given))
