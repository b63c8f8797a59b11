"""The inverse of a unit lower triangular matrix, by products alone.

A triangular solve goes row by row, and XLA on CPU calls a library for it that takes a hundred times
as long as the products here.
"""

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot
from seqarch.types import Array, Float

BLOCK = 8  # rows of blocks that are inverted by masked products of the whole


@jax.custom_vjp
def unit_inverse(A: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """Returns (I + A)^-1 for a strictly lower triangular A.

    Neighbouring blocks on the diagonal are merged until one is left, from the inverses X and Y of
    two blocks and the block B below the first: inv([[X', 0], [B, Y']]) = [[X, 0], [-Y B X, Y]].
    """
    size = A.shape[-1]
    width = narrow = min(BLOCK, size)
    while width < size:
        width *= 2
    A = jnp.pad(A, [(0, 0)] * (A.ndim - 2) + [(0, width - size)] * 2)
    inverse = _by_masks(_blocks(A, narrow))
    while inverse.shape[-3] > 1:
        X, Y = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        B = _blocks(A, inverse.shape[-1], below=1)[..., 0::2, :, :]
        below = -_product(_product(Y, B), X)
        above = jnp.concatenate([X, jnp.zeros_like(below)], -1)
        inverse = jnp.concatenate([above, jnp.concatenate([below, Y], -1)], -2)
    return inverse[..., 0, :size, :size]


def _blocks(A: Float[Array, "... C C"], width: int, below: int = 0) -> Float[Array, "... P w w"]:
    """Returns the blocks on the diagonal, or so many blocks below it."""
    starts = range(0, A.shape[-1] - below * width, width)
    return jnp.stack([A[..., at + below * width :, at:][..., :width, :width] for at in starts], -3)


def _by_masks(A: Float[Array, "... w w"]) -> Float[Array, "... w w"]:
    """Returns (I + A)^-1 of small blocks, whose own blocks are merged by products of the whole."""
    size = A.shape[-1]
    index = jnp.arange(size)
    inverse = jnp.broadcast_to(jnp.eye(size, dtype=A.dtype), A.shape)
    width = 1
    while width < size:
        block = index // width
        below = (block[:, None] == block[None] + 1) & (block[:, None] % 2 == 1)
        B = jnp.where(below.reshape((1,) * (A.ndim - 2) + below.shape), A, 0.0)
        inverse = inverse - (B if width == 1 else _product(_product(inverse, B), inverse))
        width *= 2
    return inverse


def _product(a: Array, b: Array) -> Array:
    return dot("...ij,...jk->...ik", a, b)


def _forward(A: Array) -> tuple[Array, Array]:
    inverse = unit_inverse(A)
    return inverse, inverse


def _backward(inverse: Array, cotangent: Array) -> tuple[Array]:
    transposed = jnp.swapaxes(inverse, -1, -2)
    return (-jnp.tril(_product(_product(transposed, cotangent), transposed), -1),)


unit_inverse.defvjp(_forward, _backward)
