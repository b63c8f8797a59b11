"""The base class of probes whose sources are random strings of letters."""

import dataclasses
import math

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.seq2seq import Seq2Seq, Strings
from seqarch.types import Float, Int


@dataclasses.dataclass(frozen=True)
class StringTask(Seq2Seq):
    """A probe on strings of letters, whose targets are as long.

    Attributes:
      length: tokens of a row; strings have up to all but one of half as many letters.
      letters: number of different letters.
      shortest: letters of the shortest string.
    """

    letters: int = 26
    shortest: int = 1

    def __post_init__(self):
        name = type(self).__name__.lower()
        if self.longest < self.shortest:
            raise UserError(
                f"{name} of {self.shortest} letters needs a length of {2 * self.shortest + 2} or "
                f"more; length is {self.length}"
            )
        if self.letters < 2:
            raise UserError(f"{name} needs 2 letters or more; letters is {self.letters}")

    @property
    def symbols(self) -> int:
        return self.letters

    @property
    def longest(self) -> int:
        """Letters of the longest string, behind which its end stands."""
        return min(self.source_columns - 1, self.target_columns)

    @property
    def most_scored(self) -> int:
        return self.longest

    @property
    def chance(self) -> float:
        return 1 / self.letters

    @property
    def domain_bits(self) -> float:
        return self.longest * math.log2(self.letters)

    def kind_bits(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B"]:
        """Returns the bits of the strings that are as long as each row's."""
        return self.sizes_of(tokens) * math.log2(self.letters)

    def draw_source(self, rng: np.random.Generator, count: int) -> Strings:
        letters = rng.integers(self.letters, size=(count, self.longest))
        return letters, rng.integers(self.shortest, self.longest + 1, size=count)
