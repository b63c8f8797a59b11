"""Unit lower triangular systems of a chunk's tokens, as kernels of the delta rule solve them.

Inverses of small blocks on the diagonal are exact in float32, and those of larger blocks are
products of them, rounded as the arrays are. A solution is then refined by its residual, so that it
is as exact as its products in parts.

Source: Higham 2002, "Accuracy and stability of numerical algorithms", chapter 12 (refinement) and
section 14.2 (inverses in blocks).
"""

from collections.abc import Callable

import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.delta_rule_heads import UnitHeads
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.ops.kernels.parts import Parts, rounded
from seqarch.types import Array, DTypeLike, Float

BASE = 8  # tokens of the blocks that are inverted row by row: those of a register


def unit_inverses(
    heads: UnitHeads, A: list[Float[Array, "C L"]], dtype: DTypeLike
) -> list[Float[Array, "C L"]]:
    """Returns (I + A)^-1 of each head in `dtype`, for some units' strictly lower triangular A.

    Two neighbouring blocks are merged by a product with the block B below the first:
    inv([[X', 0], [B, Y']]) = [[X, 0], [-Y B X, Y]].
    """
    blocks = _invert_blocks(heads, [_blocks(heads, each) for each in A])
    inverses, width = [_diagonal(heads, each) for each in blocks], BASE
    while width < heads.size:
        B = [heads.stack(_below(heads, each, width).astype(dtype)) for each in A]
        X = [heads.stack(each.astype(dtype)) for each in inverses]
        Y = [_second(each, width) for each in inverses]
        YB = [product(y.astype(dtype), b, COLUMNS, ROWS).astype(dtype) for y, b in zip(Y, B)]
        Y = [y - product(yb, x, COLUMNS, ROWS) for y, yb, x in zip(Y, YB, X)]
        inverses = [_with_second(each, y, width) for each, y in zip(inverses, Y)]
        width *= 2
    return [each.astype(dtype) for each in inverses]


def _below(heads: UnitHeads, A: Float[Array, "C L"], width: int) -> Float[Array, "C L"]:
    """Returns the blocks of the rows of each second block and the columns of the one before it."""
    # A division by a constant would ask for the device, which may be absent.
    row, column = (index >> width.bit_length() - 1 for index in (heads.token, heads.key))
    return jnp.where((row == column + 1) & (row & 1 == 1), A, 0.0)


def _second(x: Float[Array, "C L"], width: int) -> Float[Array, "C/2 L"]:
    """Returns the rows of each second block."""
    return jnp.concatenate([x[at : at + width] for at in range(width, len(x), 2 * width)])


def _with_second(
    x: Float[Array, "C L"], y: Float[Array, "C/2 L"], width: int
) -> Float[Array, "C L"]:
    """Returns x with other rows in each second block."""
    rows = []
    for at in range(0, len(y), width):
        rows += [x[2 * at : 2 * at + width], y[at : at + width]]
    return jnp.concatenate(rows)


def _blocks(heads: UnitHeads, A: Float[Array, "C L"]) -> Float[Array, "N L"]:
    """Returns the blocks on the diagonal side by side."""
    key, found = heads.key[:BASE], A[:BASE]
    for at in range(BASE, heads.size, BASE):
        found = jnp.where(key >= at, A[at : at + BASE], found)
    return found


def _diagonal(heads: UnitHeads, blocks: Float[Array, "N L"]) -> Float[Array, "C L"]:
    """Returns blocks that stand side by side on the diagonal, with 0 elsewhere."""
    key, firsts = heads.key[:BASE], range(0, heads.size, BASE)
    return jnp.concatenate(
        [jnp.where((key >= at) & (key < at + BASE), blocks, 0.0) for at in firsts]
    )


def _invert_blocks(heads: UnitHeads, A: list[Float[Array, "N L"]]) -> list[Float[Array, "N L"]]:
    """Returns the inverses of I + A for strictly lower triangular blocks side by side.

    Once row s is final, each later row t takes A_ts times it away: forward substitution.
    """
    row, lane = (iota((BASE, LANES), axis) for axis in (ROWS, COLUMNS))
    inverses = [jnp.where(row == (lane & BASE - 1), 1.0, 0.0) for _ in A]
    for s in range(BASE - 1):
        of_s = (lane & -BASE) + s
        factors = [jnp.take_along_axis(each, of_s, axis=COLUMNS) for each in A]
        inverses = [x - factor * x[s : s + 1] for x, factor in zip(inverses, factors)]
    return inverses


def solve(
    heads: UnitHeads,
    inverses: list[Parts],
    A: list[Parts],
    X: list[Float[Array, "C V"]],
    times: Callable[[UnitHeads, Parts, Parts], Array],
) -> list[Float[Array, "C V"]]:
    """Returns the D of D + A D = X of some units.

    Args:
      heads: of a unit.
      inverses: (I + A)^-1 of each unit, rounded.
      A: in parts.
      X: in float32.
      times: multiplies with a matrix, or with the transposed one.
    """
    dtype = inverses[0][0].dtype
    if dtype == jnp.float32:
        return [times(heads, inverse, (x,)) for inverse, x in zip(inverses, X)]
    D = [rounded(times(heads, m, (x.astype(dtype),))) for m, x in zip(inverses, X)]
    AD = [times(heads, a, (d.astype(dtype),)) for a, d in zip(A, D)]
    rest = [(x - d - ad).astype(dtype) for x, d, ad in zip(X, D, AD)]
    return [d + times(heads, m, (x,)) for m, d, x in zip(inverses, D, rest)]
