"""The inverse of a unit lower triangular matrix, by products alone.

A triangular solve goes row by row, and XLA on CPU calls a library for it that takes a hundred times
as long as the products here.
"""

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot
from seqarch.types import Array, Float


@jax.custom_vjp
def unit_inverse(A: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """Returns (I + A)^-1 for a strictly lower triangular A.

    Neighbouring blocks on the diagonal are merged until one is left, from the inverses X and Y of
    two blocks and the block B below the first: inv([[X', 0], [B, Y']]) = [[X, 0], [-Y B X, Y]].
    """
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
