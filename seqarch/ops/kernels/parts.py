"""Products of float32 numbers as sums of two parts in bfloat16, which a TPU multiplies in one pass.

Two parts have 16 bits of a number. Products of them leave out that of the two small parts, so that
three passes have errors of 2^-16, where float32 takes six passes.

Source: Henry et al. 2019, "Leveraging the bfloat16 artificial intelligence datatype for
higher-precision computations", section II.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from seqarch.ops.kernels.matrices import ROWS, product
from seqarch.types import Array, DTypeLike, Float

Parts = tuple[Array, ...]  # the large part first


def parts_of(x: Array, dtype: DTypeLike) -> Parts:
    """Returns the parts of a number: two in bfloat16, or one where it has all of the number.

    Args:
      x: in bfloat16 or float32.
      dtype: of the parts; float32 has no second one.
    """
    if x.dtype == dtype:
        return (x,)
    return tuple(part.astype(dtype) for part in split(x, dtype))


def split(x: Float[Array, "..."], dtype: DTypeLike) -> Parts:
    """Returns the parts of float32 numbers, still in float32."""
    if dtype == jnp.float32:
        return (x.astype(jnp.float32),)
    large = rounded(x)
    return large, x - large


def rounded(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns float32 numbers rounded to those that bfloat16 has, still in float32.

    By their bits: from bfloat16 and back a TPU would move them between registers.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type((bits + 0x8000) & jnp.uint32(0xFFFF0000), jnp.float32)


def parts_product(a: Parts, b: Parts, of_a: int, of_b: int) -> Float[Array, "X Y"]:
    """Returns the product of two matrices over an axis of each, in float32.

    Args:
      a, b: the matrices in parts.
      of_a, of_b: their axes; where both are ROWS, a pass takes the rows of several parts.
    """
    pairs = part_pairs(a, b)
    if of_a == of_b == ROWS:
        return rows_product(pairs)
    return sum(product(x, y, of_a, of_b) for x, y in pairs)


def part_pairs(a: Parts, b: Parts) -> list[tuple[Array, Array]]:
    """Returns the parts that are multiplied for a product."""
    return [(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if i + j < 2]


def rows_product(pairs: Sequence[tuple[Array, Array]]) -> Float[Array, "X Y"]:
    """Returns the sum of the products of pairs of matrices over their rows, in float32."""
    return product(*(jnp.concatenate(each) for each in zip(*pairs)), ROWS, ROWS)
