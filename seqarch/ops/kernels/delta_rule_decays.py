"""Decays of the delta rule's heads within a chunk, and the gradients of their logarithms.

Log-decays are rows, of a unit's heads side by side, a unit a row.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.delta_rule_heads import UnitHeads, unit_rows
from seqarch.ops.kernels.linear_attention_heads import NEVER, columns, is_head
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.ops.kernels.parts import parts_of, parts_product, split
from seqarch.types import Array, Bool, DTypeLike, Float


class DeltaDecays:
    """The decays within a chunk.

    Every exponent is a sum of its own terms, not a difference of longer sums.

    Attributes:
      since_first: the decays from the entering state until each token, as columns of heads, a head
        below the other, a unit a lane.
      until_last: those from each token until the end of the chunk.
    """

    def __init__(self, g: Float[Array, "R L"], heads: UnitHeads, dtype: DTypeLike):
        self.heads, self.dtype = heads, dtype
        self.rows, rows = split(g, dtype), parts_of(g, dtype)
        row, column, same = _pairs(heads)
        later, until = same & (row > column), same & (row <= column)
        self.later = (_ones(later, dtype),)
        until_last = parts_product(rows, self.later, COLUMNS, ROWS)
        since_first = parts_product(rows, (_ones(until, dtype),), COLUMNS, ROWS)
        self.since_first, self.until_last = (jnp.exp(columns(x)) for x in (since_first, until_last))

    def between(self, unit: int) -> Float[Array, "C L"]:
        """Returns the decays from keys to later queries, else 0."""
        causal, row = self.heads.causal, slice(unit, unit + 1)
        terms = tuple(jnp.where(causal, x[row], 0.0).astype(self.dtype) for x in self.rows)
        sums = parts_product(terms, self.later, COLUMNS, ROWS)
        return jnp.exp(jnp.where(causal, sums, NEVER))

    def spread(self, x: Float[Array, "L R"], unit: int, size: int) -> Float[Array, "C X"]:
        """Returns a unit's numbers of tokens, given as columns, in `size` lanes of each head."""
        tokens, column = self.heads.size, x[:, unit : unit + 1]
        starts = range(0, len(x), tokens)
        return self.heads.own([column[at : at + tokens] for at in starts], size)


class DeltaGradients:
    """The gradients of a chunk's log-decays, from those of the cumulative sums G.

    Args:
      heads: of units.
      dtype: of products.
    """

    def __init__(self, heads: UnitHeads, dtype: DTypeLike):
        self.heads, self.dtype = heads, dtype
        self.upto, self.before, self.over_chunk = 0.0, 0.0, 0.0

    def add(
        self,
        unit: int,
        upto: Float[Array, "C K"],
        before: Float[Array, "C K"],
        over_chunk: Sequence[Array],
    ) -> None:
        """Adds gradients of a unit, to be summed over each head's lanes.

        Args:
          unit: of heads.
          upto: of G_t.
          before: of G_{t-1}.
          over_chunk: of the last G, [1, X].
        """
        self.upto = self.upto + self._collected(unit, upto)
        self.before = self.before + self._collected(unit, before)
        rows = [self._in_row(unit, x) for x in over_chunk]
        previous = self.over_chunk or [0.0] * len(rows)
        self.over_chunk = [x + y for x, y in zip(previous, rows)]

    def _collected(self, unit: int, x: Float[Array, "C K"]) -> Float[Array, "HR C"]:
        """Returns the sums of x over each head's lanes in the unit's row of each head's rows."""
        rows, size = unit_rows(self.heads.layout), self.heads.layout.key
        shape = self.heads.count * rows, x.shape[1]
        found = jnp.zeros(shape, bool)
        for j in range(self.heads.count):
            found |= is_head(shape, size, j) & (iota(shape, ROWS) == j * rows + unit)
        ones = (_ones(found, self.dtype),)
        return parts_product(ones, parts_of(x, self.dtype), COLUMNS, COLUMNS)

    def rows(self) -> Float[Array, "R L"]:
        """Returns the gradients of the log-decays."""
        row, column, same = _pairs(self.heads)
        since = jnp.where(same & (row >= column), 1.0, 0.0)
        upto, before = (self._by_unit(x) for x in (self.upto, self.before))
        found = product(upto + before, since, COLUMNS, ROWS) - before
        for x in self.over_chunk:
            found = found + product(x, self._of_head(x.shape[1]), COLUMNS, ROWS)
        return found

    def _in_row(self, unit: int, x: Float[Array, "1 X"]) -> Float[Array, "R X"]:
        """Returns x in the row of a unit, with 0 in those of others."""
        shape = unit_rows(self.heads.layout), x.shape[1]
        return jnp.where(iota(shape, ROWS) == unit, x, 0.0)

    def _by_unit(self, x: Float[Array, "HR C"]) -> Float[Array, "R L"]:
        """Returns the heads of each unit side by side."""
        rows = unit_rows(self.heads.layout)
        return jnp.concatenate([x[at : at + rows] for at in range(0, len(x), rows)], 1)

    def _of_head(self, lanes: int) -> Float[Array, "X L"]:
        """Returns 1 between the lanes and the tokens of a head, else 0."""
        found, shape = jnp.zeros((lanes, LANES), bool), (lanes, LANES)
        for j in range(self.heads.count):
            own = is_head(shape, lanes // self.heads.count, j, ROWS)
            found |= own & is_head(shape, self.heads.size, j)
        return jnp.where(found, 1.0, 0.0)


def _pairs(heads: UnitHeads) -> tuple[Array, Array, Bool[Array, "L L"]]:
    """Returns the row and the column of pairs of all heads' tokens, and which are of one head."""
    row, column = (iota((LANES, LANES), axis) for axis in (ROWS, COLUMNS))
    # A division by a constant would ask for the device, which may be absent.
    shift = heads.size.bit_length() - 1
    return row, column, row >> shift == column >> shift


def _ones(where: Bool[Array, "X Y"], dtype: DTypeLike) -> Float[Array, "X Y"]:
    return jnp.where(where, 1.0, 0.0).astype(dtype)
