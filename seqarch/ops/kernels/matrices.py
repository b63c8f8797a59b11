"""Products of matrices in kernels, and the indices of their rows and columns."""

import jax
import jax.numpy as jnp

from seqarch.types import Array, Int

ROWS, COLUMNS = 0, 1  # axes


def product(a: Array, b: Array, of_a: int, of_b: int) -> Array:
    """Returns the product of two matrices over an axis of each, in float32."""
    if a.dtype != b.dtype:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    # The default would be what jax.default_matmul_precision says, also of bfloat16.
    precision = "highest" if a.dtype == jnp.float32 else "default"
    axes = (((of_a,), (of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)


def iota(shape: tuple[int, ...], axis: int) -> Int[Array, "..."]:
    """Returns the index of each number along an axis."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)
