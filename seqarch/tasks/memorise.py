"""MAD's memorisation: a fixed table of values, learned by heart.

    tokens    k3 ?  k1 ?  k5 ?  ...        ?: the value of the key before is asked for
    targets   -  v8 -  v2 -  v4 ...

All rows of all seeds share one table, from each key to a value of its own. So held-out rows ask
for what was trained on, and are not disjoint from training. An even vocabulary has a value that no
key has. Chance: one in the number of keys.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", and its code
(mad-lab, `generate_memorization_instance`). There 256 fixed rows are trained on; here, by default,
new ones.
"""

import dataclasses

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

TABLE_SEED = 12345


@dataclasses.dataclass(frozen=True)
class Memorise(Probe):
    """MAD's memorisation.

    Attributes:
      length: tokens of a row, an even number.
      vocab: number of keys and values, half of them each, and one.
      training_rows: rows that training has, in every epoch anew; 0: new ones in every batch.
    """

    length: int = 32
    vocab: int = 256
    training_rows: int = 0

    def __post_init__(self):
        if self.length % 2:
            raise UserError(f"memorise needs an even length; length is {self.length}")
        if self.vocab < 5:
            raise UserError(f"memorise needs a vocab of 5 or more; vocab is {self.vocab}")

    @property
    def _keys(self) -> int:
        """The number of keys, which are the first tokens; then follow the values."""
        return (self.vocab - 1) // 2

    @property
    def _table(self) -> Int[np.ndarray, "K"]:
        """The value of each key."""
        values = np.random.default_rng(TABLE_SEED).permutation(self.vocab - 1 - self._keys)
        return self._keys + values[: self._keys]

    @property
    def most_scored(self) -> int:
        return self.length // 2

    @property
    def chance(self) -> float:
        return 1 / self._keys

    @property
    def disjoint(self) -> bool:
        return False

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        tokens = np.full((count, self.length), self.vocab - 1)
        tokens[:, ::2] = rng.integers(self._keys, size=(count, self.length // 2))
        return Rows.asking(tokens, np.s_[:, 1::2], self._table[tokens[:, ::2]])

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        answers = np.full_like(tokens, -1)
        answers[:, 1::2] = self._table[tokens[:, ::2]]
        return answers
