"""Decays per key channel between the tokens of a chunk, as products over blocks of tokens.

A token and an earlier one are parted by the border between two neighbouring blocks of just one
width 1, 2, 4, ..., as in seqarch/ops/channel_decay.py. Reads behind a border decay from there, and
writes before it to there. The logarithm of each such decay is a sum of its own terms, and all those
of a chunk are one product with a matrix of zeros and ones.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4.3, whose secondary chunks have one width.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

from seqarch.ops.kernels.delta_rule_heads import UnitHeads
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, product
from seqarch.ops.kernels.parts import Parts, parts_of, parts_product
from seqarch.types import Array, DTypeLike, Float

T = TypeVar("T")
Steps = Generator[None, None, T]
LATER = -1  # the level of writes that are later than the read


class ChannelDecays:
    """The decays within a chunk of a unit of heads.

    Attributes:
      levels: of each width 1, 2, 4, ..., the decay of a token in an even block to the end of its
        block, and of one in an odd block from the start of its block.
      since: from the start of the chunk through each token.
      until: from each token to the end of the chunk.
    """

    def __init__(self, g: Float[Array, "C K"], sums: Float[Array, "N X"], dtype: DTypeLike):
        logarithms = product(sums, jnp.concatenate(parts_of(g, dtype)), COLUMNS, ROWS)
        factors, size = jnp.exp(logarithms), len(g)
        found = [factors[at : at + size] for at in range(0, len(factors), size)]
        *self.levels, self.since, self.until = found

    @property
    def over_chunk(self) -> Float[Array, "1 K"]:
        """The decay over the chunk."""
        return self.since[len(self.since) - 1 :]


def summed(size: int, dtype: DTypeLike) -> Float[np.ndarray, "N X"]:
    """Returns which tokens' log-decays each factor of `ChannelDecays` sums, for chunks of C tokens.

    Args:
      size: C.
      dtype: of products; bfloat16 has two parts of log-decays, one behind the other.
    """
    token, found, width = np.arange(size), [], 1
    since, until = token[:, None] >= token, token[:, None] < token
    while width < size:
        block = token // width
        same, odd = block[:, None] == block, block[:, None] % 2 == 1
        found.append(same & np.where(odd, since, until))
        width *= 2
    sums = np.concatenate([*found, since, until])
    return np.tile(sums, 1 if dtype == jnp.float32 else 2).astype(dtype)


class Levels:
    """At which level a read and a write are parted.

    Level 0 is a token itself, and level i a border of blocks of 2^(i-1) tokens.

    Attributes:
      of: the level of each pair, with the reads as rows; LATER where the write is later.
      turned: the same, with the writes as rows.
      count: of levels.
    """

    def __init__(self, heads: UnitHeads):
        apart, level, self.count = heads.token ^ heads.key, 0, heads.size.bit_length()
        for i in range(self.count - 1):
            level = level + jnp.where(apart >= 1 << i, 1, 0)
        self.of = jnp.where(heads.key <= heads.token, level, LATER)
        self.turned = jnp.where(heads.token <= heads.key, level, LATER)


class ChannelScores:
    """What tokens of a chunk read of the others' writes.

    Attributes:
      heads: of the unit.
      reads: sets of queries.
      writes: sets of keys.
    """

    def __init__(
        self,
        heads: UnitHeads,
        decays: ChannelDecays,
        reads: Sequence[Float[Array, "C K"]],
        writes: Sequence[Float[Array, "C K"]],
        parts: Callable[[Array], Parts],
    ):
        self.heads, self.reads, self.writes, self.parts = heads, reads, writes, parts
        self._factors = decays.levels

    def decayed(self, x: Float[Array, "C K"], i: int) -> Float[Array, "C K"]:
        """Returns reads or writes, decayed from or to the borders of a level."""
        return x * self._factors[i - 1] if i else x

    def read(self, i: int) -> Parts:
        """Returns the decayed reads, a set below the one before."""
        return self.parts(jnp.concatenate([self.decayed(x, i) for x in self.reads]))

    def stacked(self, x: Float[Array, "C K"], i: int) -> Parts:
        """Returns decayed reads or writes, a head below the one before."""
        return tuple(map(self.heads.stack, self.parts(self.decayed(x, i))))


def scores(levels: Levels, c: ChannelScores) -> Steps[list[Float[Array, "RC L"]]]:
    """Returns the scores of each set of writes; those of later writes are 0.

    The reads are rows, a set below the one before.
    """
    found = [0.0] * len(c.writes)
    level = jnp.concatenate([levels.of] * len(c.reads))
    for i in range(levels.count):
        reads, writes = c.read(i), [c.stacked(x, i) for x in c.writes]
        yield
        of_level = [parts_product(reads, x, COLUMNS, COLUMNS) for x in writes]
        yield
        found = [jnp.where(level == i, new, old) for new, old in zip(of_level, found)]
    return found


def gradients(
    levels: Levels,
    c: ChannelScores,
    d: Sequence[Float[Array, "RC L"]],
    turned: Sequence[Sequence[Float[Array, "C L"]]],
) -> Steps[tuple[list[Float[Array, "C K"]], list[Float[Array, "C K"]]]]:
    """Returns the gradients of the sets of reads and of writes.

    Args:
      levels: of pairs.
      c: a chunk.
      d: those of the scores of each set of writes; those of later writes do not count.
      turned: of each set of writes and each set of reads, the same with the writes as rows.
    """
    d_reads, d_writes, size = [0.0] * len(c.reads), [0.0] * len(c.writes), c.heads.size
    level = jnp.concatenate([levels.of] * len(c.reads))
    for i in range(levels.count):
        reads, writes = ([c.stacked(x, i) for x in sets] for sets in (c.reads, c.writes))
        d_i = [c.parts(jnp.where(level == i, x, 0.0)) for x in d]
        turned_i = [[c.parts(jnp.where(levels.turned == i, x, 0.0)) for x in of] for of in turned]
        yield
        of_reads = sum(parts_product(x, y, COLUMNS, ROWS) for x, y in zip(d_i, writes))
        of_writes = [
            sum(parts_product(x, y, COLUMNS, ROWS) for x, y in zip(of, reads)) for of in turned_i
        ]
        yield
        for r in range(len(c.reads)):
            d_reads[r] = d_reads[r] + c.decayed(of_reads[r * size : (r + 1) * size], i)
        d_writes = [x + c.decayed(y, i) for x, y in zip(d_writes, of_writes)]
    return d_reads, d_writes


def in_step(units: Sequence[Steps]) -> list:
    """Returns what generators return, which run in turn, each until its next yield.

    A product waits for its operands, and meanwhile those of other units are computed.
    """
    running, results = dict(enumerate(units)), {}
    while running:
        for i, steps in list(running.items()):
            try:
                next(steps)
            except StopIteration as end:
                results[i] = end.value
                del running[i]
    return [results[i] for i in range(len(units))]
