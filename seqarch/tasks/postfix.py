"""Translation of expressions with brackets into postfix notation, a grammar of one rule.

    tokens    ( ( 3 + 1 ) * 4 ) | _ _ | 3 1 + 4 _        |: end and start, _: padding
    targets   - - - - - - - - - - - - 3 1 + 4 * -

    expression  ->  number  |  ( expression operator expression )

Operators are `+`, `-` and `*`; the target has each behind its two operands, and no brackets. An
expression has 1 number up to as many as fit, all counts equally likely; it is split at a random
operator, and so is each part. Two thirds of a row are the source, which the encoder of an
encoder-decoder reads. Expressions of so few numbers that there are fewer than 2^14 of them are in
every split. The right symbols follow, whatever a model answers. Chance: guessing a number or an
operator as often as there is one, and among them evenly.

Source: Aho and Ullman 1972, "The theory of parsing, translation, and compiling", volume 1, section
3.1 (a syntax-directed translation schema); Dijkstra 1961, "Algol 60 translation" (the stack that
`translate` keeps).
"""

import dataclasses
import math
from fractions import Fraction
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.seq2seq import Seq2Seq, Strings
from seqarch.types import Float, Int

SYMBOLS = PLUS, MINUS, TIMES, OPEN, CLOSE = range(5)  # added to the number of numbers
OPERATORS = 3


@dataclasses.dataclass(frozen=True)
class Postfix(Seq2Seq):
    """Translation into postfix notation.

    Attributes:
      length: tokens of a row.
      numbers: number of different numbers.
    """

    share: ClassVar[Fraction] = Fraction(2, 3)
    length: int = 66
    numbers: int = 10

    def __post_init__(self):
        if self.longest < 2:
            raise UserError(f"postfix needs a length of 9 or more; length is {self.length}")

    @property
    def symbols(self) -> int:
        return self.numbers + len(SYMBOLS)

    @property
    def longest(self) -> int:
        """The most numbers n of an expression, which has 4 n - 3 symbols and an end."""
        return min((self.source_columns + 2) // 4, (self.target_columns + 1) // 2)

    @property
    def most_scored(self) -> int:
        return 2 * self.longest - 1

    @property
    def chance(self) -> float:
        share = (self.longest + 1) / (2 * self.longest)  # of numbers in targets
        return share**2 / self.numbers + (1 - share) ** 2 / OPERATORS

    @property
    def domain_bits(self) -> float:
        return float(self._bits(np.array(self.longest)))

    def kind_bits(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B"]:
        """Returns the bits of the expressions that have as many numbers as each row's."""
        return self._bits((self.sizes_of(tokens) + 3) // 4)

    def _bits(self, count: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Returns the bits of numbers and operators, without those of the brackets."""
        return count * math.log2(self.numbers) + (count - 1) * math.log2(OPERATORS)

    def draw_source(self, rng: np.random.Generator, count: int) -> Strings:
        """Splits all expressions of all rows, level by level."""
        numbers = rng.integers(1, self.longest + 1, size=count)
        source = np.zeros((count, self.source_columns), int)
        row, at, size = np.arange(count), np.zeros(count, int), numbers
        while len(row):
            leaf = size == 1
            source[row[leaf], at[leaf]] = rng.integers(self.numbers, size=leaf.sum())
            row, at, size = (x[~leaf] for x in (row, at, size))
            left = rng.integers(1, size)
            middle = at + 4 * left - 2
            source[row, at] = self.numbers + OPEN
            source[row, middle] = self.numbers + rng.integers(OPERATORS, size=len(row))
            source[row, at + 4 * size - 4] = self.numbers + CLOSE
            row, at = np.tile(row, 2), np.concatenate([at + 1, middle + 1])
            size = np.concatenate([left, size - left])
        return source, 4 * numbers - 3

    def translate(self, source: Int[np.ndarray, "B n"], size: Int[np.ndarray, "B"]) -> Strings:
        """Reads from left to right; a stack holds the operators whose brackets are open."""
        row, columns = np.arange(len(source)), source.shape[1]
        target, stack = np.zeros((2, len(source), columns + 1), int)
        written, depth = np.zeros((2, len(source)), int)
        for t, x in enumerate(source.T):
            symbol, inside = x - self.numbers, t < size
            operator = inside & (symbol >= 0) & (symbol < OPERATORS)
            stack[row, depth] = np.where(operator, x, stack[row, depth])
            depth = depth + operator
            closes = inside & (symbol == CLOSE) & (depth > 0)
            depth = depth - closes
            wrote = (inside & (symbol < 0)) | closes
            answer = np.where(closes, stack[row, depth], x)
            target[row, written] = np.where(wrote, answer, target[row, written])
            written = written + wrote
        return target, written
