"""Heads of the delta rule side by side in the lanes of a TPU's registers.

Numbers of pairs of tokens are arrays [C, L], whose lanes are the C keys of each head of a unit:
128 tokens of a single head, 64 of two. A product with such a matrix takes its other operand
stacked: a head below the other, with the other head's lanes set to 0.
"""

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.linear_attention_heads import is_head, only
from seqarch.ops.kernels.linear_attention_layout import Layout
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota
from seqarch.ops.kernels.parts import Parts, parts_product
from seqarch.types import Array, Bool, Float


class UnitHeads:
    """Which lanes are those of which head of a unit.

    Attributes:
      layout: of the heads.
      count: heads of a unit.
      size: tokens C of a chunk.
      token: of a query, in arrays [C, L].
      key: the token of a key.
    """

    def __init__(self, layout: Layout):
        self.layout, self.count, self.size = layout, layout.paired, chunk_size(layout)
        shape = self.size, LANES
        self.token, self.key = iota(shape, ROWS), iota(shape, COLUMNS) & self.size - 1

    @property
    def causal(self) -> Bool[Array, "C L"]:
        """Which keys are not later than the query."""
        return self.key <= self.token

    @property
    def earlier(self) -> Bool[Array, "C L"]:
        """Which keys are earlier than the query."""
        return self.key < self.token

    def stack(self, x: Float[Array, "C X"]) -> Float[Array, "L X"]:
        """Returns each head's own lanes of x below those of the head before."""
        if self.count == 1:
            return x
        size = x.shape[1] // self.count
        heads = range(self.count)
        return jnp.concatenate([only(lambda shape, j=j: is_head(shape, size, j), x) for j in heads])

    def unstack(self, x: Float[Array, "L X"]) -> Float[Array, "C X"]:
        """Returns of each head's rows its own lanes."""
        return self.own([x[j * self.size : (j + 1) * self.size] for j in range(self.count)])

    def own(self, parts: list[Float[Array, "#C #X"]], size: int = 0) -> Float[Array, "C X"]:
        """Returns of each head's array its own lanes.

        Args:
          parts: an array of each head; those of one lane are spread.
          size: lanes of a head where they are spread.
        """
        lanes = self.count * size or parts[0].shape[1]
        shape = len(parts[0]), lanes
        if self.count == 1:
            return jnp.broadcast_to(parts[0], shape)
        return jnp.where(is_head(shape, lanes // 2, 0), *parts)

    def blocks(self, S: Float[Array, "K V"]) -> Float[Array, "K V"]:
        """Returns a state with 0 between the keys of one head and the values of another."""
        if self.count == 1:
            return S
        first = [is_head(S.shape, size // 2, 0, axis) for axis, size in enumerate(S.shape)]
        return jnp.where(first[0] == first[1], S, 0.0)


def times(heads: UnitHeads, M: Parts, x: Parts) -> Float[Array, "C X"]:
    """Returns M x of each head."""
    return parts_product(M, tuple(map(heads.stack, x)), COLUMNS, ROWS)


def transposed_times(heads: UnitHeads, M: Parts, x: Parts) -> Float[Array, "C X"]:
    """Returns M^T x of each head."""
    return heads.unstack(parts_product(M, x, ROWS, ROWS))


def after_a_token(x: Float[Array, "C X"], first: float) -> Float[Array, "C X"]:
    """Returns each row of the token before, and `first` for the first token."""
    return jnp.where(iota(x.shape, ROWS) == 0, first, pltpu.roll(x, 1, ROWS))


def before_a_token(x: Float[Array, "C X"]) -> Float[Array, "C X"]:
    """Returns each row of the token behind, and 0 for the last token."""
    last = len(x) - 1
    return jnp.where(iota(x.shape, ROWS) == last, 0.0, pltpu.roll(x, last, ROWS))


def unit_rows(layout: Layout) -> int:
    """Returns the rows of numbers of the units of a turn of the grid, in whole registers."""
    return layout.together + -layout.together % 8


def chunk_size(layout: Layout) -> int:
    """Returns the tokens of a chunk."""
    return LANES // layout.paired
