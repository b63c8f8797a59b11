"""Copying: a string is repeated after a bar.

    tokens    $  a  b  c  |  a  b  _  _  _        $: start, |: the copy follows, _: padding
    targets   -  -  -  -  a  b  c  -  -  -

Strings have `shortest` letters to as many as fit, all lengths equally likely, so that longer rows
than in training have longer strings. Strings of so few letters that there are fewer than 2^14 of
them are in every split. The right letters follow, whatever a model answers. Chance: one in the
number of letters.

Source: Jelassi et al. 2024, "Repeat after me: Transformers are better than state space models at
copying", section 3.1, and its code (transformers_ssm_copy). There several strings fill a row of
training, and the end of the copy is scored too; here a row has one string, as there in tests.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Float, Int


@dataclasses.dataclass(frozen=True)
class Copy(Probe):
    """Copying.

    Attributes:
      length: tokens of a row; strings have up to half as many.
      vocab: number of letters, and three.
      shortest: letters of the shortest string.
    """

    ability: ClassVar[str] = "copying"
    version: ClassVar[int] = 2
    length: int = 64
    vocab: int = 29
    shortest: int = 1

    def __post_init__(self):
        if self._longest < self.shortest:
            raise UserError(
                f"copy of {self.shortest} letters needs a length of {2 * self.shortest + 1} or "
                f"more; length is {self.length}"
            )
        if self.vocab < 5:
            raise UserError(f"copy needs a vocab of 5 or more; vocab is {self.vocab}")

    @property
    def _letters(self) -> int:
        """The number of letters, which are the first tokens; then follow start, bar, padding."""
        return self.vocab - 3

    @property
    def _longest(self) -> int:
        return (self.length - 1) // 2

    @property
    def most_scored(self) -> int:
        return self._longest

    @property
    def chance(self) -> float:
        return 1 / self._letters

    @property
    def domain_bits(self) -> float:
        return self._longest * math.log2(self._letters)

    def kind_bits(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B"]:
        """Returns the bits of the strings that are as long as each row's."""
        return self._size(tokens)[:, 0] * math.log2(self._letters)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        letters = rng.integers(self._letters, size=(count, self._longest))
        size = rng.integers(self.shortest, self._longest + 1, size=(count, 1))
        place = np.arange(self.length)
        in_string = (place >= 1) & (place <= size)
        in_copy = (place > size + 1) & (place <= 2 * size)
        index = np.where(in_string, place - 1, np.where(in_copy, place - size - 2, 0))
        tokens = np.take_along_axis(letters, index, axis=1)
        tokens = np.where(in_string | in_copy, tokens, self.vocab - 1)
        tokens[:, 0] = self._letters
        np.put_along_axis(tokens, size + 1, self._letters + 1, axis=1)
        scored = (place > size) & (place <= 2 * size)
        answer = np.where(scored, place - size - 1, 0)
        targets = np.where(scored, np.take_along_axis(letters, answer, axis=1), 0)
        return Rows(tokens, targets, scored)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        place, size = np.arange(self.length), self._size(tokens)
        source = np.maximum(place - np.maximum(size, 0), 0)
        answers = np.take_along_axis(tokens, source, axis=1)
        return np.where((place > size) & (place <= 2 * size), answers, -1)

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from a letter to where its copy is predicted."""
        return np.broadcast_to(self._size(tokens), tokens.shape)

    def _size(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B 1"]:
        """Returns the number of letters of each row's string."""
        return (tokens == self._letters + 1).argmax(axis=1)[:, None] - 1
