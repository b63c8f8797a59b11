"""Associative recall with one query, at the end of the row.

    tokens    k3 v1 k1 v7 k3 v1 ... k5 v2 => k1        =>: the query follows
    targets   -  -  -  -  -  -  ... -  -  -  v7

Keys are drawn with replacement, and each has one value in a row. The query is one of the row's
keys. Chance: one in the number of values.

Source: Fu et al. 2023, "Hungry hungry hippos", and its code (safari, `generate_assoc_recall`).
There a loss at every token trains the model; here the answer alone does. As there, 20 tokens are 9
keys, 9 values, the query sign, and a sign for keys that the row lacks, which is not used.
"""

import dataclasses
import math

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.draws import one_of, previous
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class Recall(Probe):
    """Associative recall with one query.

    Attributes:
      length: tokens of a row, an even number.
      vocab: number of keys, of values, and two.
    """

    length: int = 40
    vocab: int = 20

    def __post_init__(self):
        if self.length % 2 or self.length < 6:
            raise UserError(f"recall needs an even length of 6 or more; length is {self.length}")
        if self.vocab < 6:
            raise UserError(f"recall needs a vocab of 6 or more; vocab is {self.vocab}")

    @property
    def _keys(self) -> int:
        """The number of keys, which are the first tokens; then follow the values."""
        return (self.vocab - 2) // 2

    @property
    def most_scored(self) -> int:
        return 1

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 2 - self._keys)

    @property
    def domain_bits(self) -> float:
        return (self.length / 2 - 1) * math.log2(self._keys)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        keys = rng.integers(self._keys, size=(count, self.length // 2 - 1))
        value_of = rng.integers(self._keys, self.vocab - 2, size=(count, self._keys))
        asked = one_of(rng, keys, self._keys)
        tokens = np.empty((count, self.length), int)
        tokens[:, 0:-2:2] = keys
        tokens[:, 1:-2:2] = np.take_along_axis(value_of, keys, axis=1)
        tokens[:, -2], tokens[:, -1] = self.vocab - 1, asked
        return Rows.asking(tokens, np.s_[:, -1], value_of[np.arange(count), asked])

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        answers = np.full_like(tokens, -1)
        value = 2 * self._evidence(tokens) + 1
        answers[:, -1] = tokens[np.arange(len(tokens)), value]
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from the key's last value to the query."""
        value = 2 * self._evidence(tokens) + 1
        return np.arange(self.length) - value[:, None]

    def _evidence(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B"]:
        """Returns the last pair with the key that is asked for."""
        keys = np.concatenate([tokens[:, 0:-2:2], tokens[:, -1:]], axis=1)
        return previous(keys)[:, -1]
