"""What calls of the kernels of attention take and return, and which blocks of it a turn has."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.attention_kernels import How
from seqarch.types import Array, Float, Int


class Documents(NamedTuple):
    """The documents of the tokens.

    Attributes:
      q: those of the queries.
      k: those of the keys, the same in all lanes.
      may: whether a query sees a key of it, for each pair of blocks.
    """

    q: Int[Array, "B 1 T"]
    k: Int[Array, "B S lanes"]
    may: Int[Array, "B P"]


class RotaryFactors(NamedTuple):
    """Factors that rotate a block of heads (`seqarch.ops.rope.Rope.factors`), for each token."""

    q_own: Float[Array, "B T lanes"]
    q_other: Float[Array, "B T lanes"]
    k_own: Float[Array, "B S lanes"]
    k_other: Float[Array, "B S lanes"]


class AttentionGradients(NamedTuple):
    """Gradients that calls for some blocks of queries each add their own to.

    Attributes:
      q: for queries, of which each block is written by one call.
      k: for keys, as each query head has them.
      v: for values, the same.
    """

    q: Float[Array, "B T HK"]
    k: Float[Array, "B S HK"]
    v: Float[Array, "B S HV"]


class OperandBlocks(NamedTuple):
    """Makes the specs of operands whose block follows from row, heads, turn and tables.

    Attributes:
      how: what is fixed.
      of_q: index of the table with the blocks of queries.
      of_k: index of the table with the blocks of keys.
    """

    how: How
    of_q: int
    of_k: int

    def queries(self, lanes: int, table: int | None = None) -> pl.BlockSpec:
        """Of [B,T,all heads' channels]."""
        table = self.of_q if table is None else table
        place = lambda b, h, p, *tables: (b, tables[table][p], h)
        return pl.BlockSpec((None, self.how.size, lanes), place)

    def rows(self) -> pl.BlockSpec:
        """Of one number for each query [B,H,1,T]."""
        place = lambda b, h, p, *tables: (b, h, 0, tables[self.of_q][p])
        return pl.BlockSpec((None, self.how.heads, 1, self.how.size), place)

    def keys(self, lanes: int, share: int = 1) -> pl.BlockSpec:
        """Of [B,S,all key heads' channels], of which `share` query heads share a head."""
        # `//` would ask for the device, which may be absent.
        group = lambda h: h if share == 1 else jax.lax.div(h, jnp.int32(share))
        place = lambda b, h, p, *tables: (b, tables[self.of_k][p], group(h))
        return pl.BlockSpec((None, self.how.size, lanes), place)

    def documents(self) -> list[pl.BlockSpec]:
        """Of the arrays of Documents."""
        q = lambda b, h, p, *tables: (b, 0, tables[self.of_q][p])
        k = lambda b, h, p, *tables: (b, tables[self.of_k][p], 0)
        size = self.how.size
        return [pl.BlockSpec((None, 1, size), q), pl.BlockSpec((None, size, LANES), k)]

    def factors(self) -> list[pl.BlockSpec]:
        """Of the arrays of RotaryFactors."""

        def of(table: int) -> pl.BlockSpec:
            place = lambda b, h, p, *tables: (b, tables[table][p], 0)
            return pl.BlockSpec((None, self.how.size, self.how.lanes[0]), place)

        return [of(self.of_q)] * 2 + [of(self.of_k)] * 2
