"""Modular arithmetic: the value of an expression, with or without brackets.

    tokens    2 + 3 * 4 - 1 = _ _ _ _ _ _ _ _ _        modulo 5; _: padding
    targets   - - - - - - - 3 - - - - - - - - -
    tokens    ( ( 1 + 3 ) - ( - 2 ) ) = _ _ _ _        with brackets=True
    targets   - - - - - - - - - - - - 1 - - - -

Without brackets, numbers alternate with `+`, `-` and `*`, and `*` binds closer. With brackets, an
expression is two expressions of random lengths and `+` or `-`, in brackets; one of 1 to 4 tokens is
n, -n, (n) or (-n). Expressions have 1 token up to all but one of the row; all lengths are equally
likely. Those of so few numbers that there are fewer than 2^14 of them are in every split. Only = is
scored. Chance: one in the modulus.

Source: Deletang et al. 2023, "Neural networks and the Chomsky hierarchy", table A.1, and its code
(neural_networks_chomsky_hierarchy, `ModularArithmetic` and `ModularArithmeticBrackets`), with
expressions of 1 to 40 tokens in training and of up to 500 in tests. There a row has no =, and its
answer is that of the last token.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Float, Int

SYMBOLS = PLUS, MINUS, TIMES, OPEN, CLOSE, EQUALS, PADDING = range(7)  # added to the modulus
DIGIT_OF = np.array([0, 0, 1, 1, 2])  # place of the digit in n, -n, (n) and (-n), by length


@dataclasses.dataclass(frozen=True)
class Arithmetic(Probe):
    """Modular arithmetic.

    Attributes:
      length: tokens of a row; without brackets an even number.
      modulus: number of different numbers.
      brackets: whether expressions have brackets.
    """

    ability: ClassVar[str] = "state tracking"
    version: ClassVar[int] = 2
    length: int = 64
    modulus: int = 5
    brackets: bool = False

    def __post_init__(self):
        if self.length < 4 or (self.length % 2 and not self.brackets):
            raise UserError(
                "arithmetic needs a length of 4 or more, an even one without brackets; length is "
                f"{self.length}"
            )
        if self.modulus < 2:
            raise UserError(f"arithmetic needs a modulus of 2 or more; modulus is {self.modulus}")

    @property
    def vocab(self) -> int:
        return self.modulus + len(SYMBOLS)

    @property
    def most_scored(self) -> int:
        return 1

    @property
    def chance(self) -> float:
        return 1 / self.modulus

    @property
    def domain_bits(self) -> float:
        return self.length // (4 if self.brackets else 2) * math.log2(self.modulus)

    def kind_bits(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B"]:
        """Returns the bits of each expression's numbers, and of the operators between them."""
        numbers = (tokens < self.modulus).sum(axis=1)
        return numbers * math.log2(self.modulus) + (numbers - 1) * math.log2(3 - self.brackets)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        tokens = np.full((count, self.length), self.modulus + PADDING)
        draw = self._draw_nested if self.brackets else self._draw_flat
        ends, values = draw(rng, tokens)
        row = np.arange(count)
        tokens[row, ends] = self.modulus + EQUALS
        return Rows.asking(tokens, (row, ends), values % self.modulus)

    def _draw_flat(
        self, rng: np.random.Generator, tokens: Int[np.ndarray, "B T"]
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """Writes expressions without brackets; returns where they end, and their values."""
        shape = (len(tokens), self.length // 2)
        digits, operators = rng.integers(self.modulus, size=shape), rng.integers(3, size=shape)
        sizes = rng.integers(1, shape[1] + 1, size=shape[0])
        value, term = np.zeros(shape[0], int), digits[:, 0]
        for i in range(1, shape[1]):
            used, times = i < sizes, operators[:, i] == TIMES
            sign = np.where(operators[:, i] == MINUS, -1, 1)
            value = np.where(used & ~times, value + term, value)
            new = np.where(times, term * digits[:, i] % self.modulus, sign * digits[:, i])
            term = np.where(used, new, term)
        written = np.arange(self.length) < 2 * sizes[:, None]
        both = np.stack([digits, self.modulus + np.roll(operators, -1, axis=1)], axis=2)
        np.copyto(tokens, both.reshape(tokens.shape), where=written)
        return 2 * sizes - 1, value + term

    def _draw_nested(
        self, rng: np.random.Generator, tokens: Int[np.ndarray, "B T"]
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """As `_draw_flat`, with brackets: splits all expressions of all rows, level by level."""
        ends = rng.integers(1, self.length, size=len(tokens))
        values, sign = np.zeros(len(tokens), int), np.ones(len(tokens), int)
        row, at, size = np.arange(len(tokens)), np.zeros(len(tokens), int), ends
        while len(row):
            leaf = size < len(DIGIT_OF)
            self._write_leaves(rng, tokens, values, *(x[leaf] for x in (row, at, size, sign)))
            row, at, size, sign = (x[~leaf] for x in (row, at, size, sign))
            left, minus = rng.integers(1, size - 3), rng.integers(2, size=len(row))
            tokens[row, at] = self.modulus + OPEN
            tokens[row, at + 1 + left] = self.modulus + np.where(minus, MINUS, PLUS)
            tokens[row, at + size - 1] = self.modulus + CLOSE
            row, at = np.tile(row, 2), np.concatenate([at + 1, at + left + 2])
            size = np.concatenate([left, size - left - 3])
            sign = np.concatenate([sign, np.where(minus, -sign, sign)])
        return ends, values

    def _write_leaves(self, rng, tokens, values, row, at, size, sign) -> None:
        """Writes n, -n, (n) and (-n), and adds them to their row's value."""
        digit, place = rng.integers(self.modulus, size=len(row)), at + DIGIT_OF[size]
        negated, closed = size % 2 == 0, size > 2
        tokens[row, place] = digit
        tokens[row[negated], place[negated] - 1] = self.modulus + MINUS
        tokens[row[closed], at[closed]] = self.modulus + OPEN
        tokens[row[closed], (at + size - 1)[closed]] = self.modulus + CLOSE
        np.add.at(values, row, np.where(negated, -sign, sign) * digit)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Reads from left to right; a stack holds the sign of each bracket that is open."""
        row, answers = np.arange(len(tokens)), np.full_like(tokens, -1)
        value, term, depth, times = (np.zeros(len(tokens), int) for _ in range(4))
        signs, sign = np.ones((len(tokens), self.length + 1), int), np.ones(len(tokens), int)
        for t, x in enumerate(tokens.T):
            symbol, is_digit = x - self.modulus, x < self.modulus
            value = np.where(is_digit & (times == 0), value + term, value)
            new = np.where(times, term * x, sign * x) % self.modulus
            term = np.where(is_digit, new, term)
            times = symbol == TIMES
            sign = np.where(symbol == MINUS, -sign, sign)
            depth = np.maximum(depth + (symbol == OPEN) - (symbol == CLOSE), 0)
            signs[row, depth] = np.where(symbol == OPEN, sign, signs[row, depth])
            sign = np.where(is_digit | (symbol == CLOSE), signs[row, depth], sign)
            ended = (value + term) % self.modulus
            answers[:, t] = np.where(symbol == EQUALS, ended, -1)
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens since the first, on which the value depends."""
        return np.broadcast_to(np.arange(self.length), tokens.shape)
