"""MAD's fuzzy in-context recall: keys and values of one to three tokens.

    tokens    _ _ k3 k1 v2 | k1 v7 v4 v1 | k3 k1 v2 | k1 v7 v4 v1        _: padding; no |
    targets   - - -  -  -  | -  -  -  -  | -  v2 -  | v7 v4 v1 -

Keys and values are of disjoint halves of the vocabulary, each of tokens that differ from one
another. A key that comes again has the same value, whose tokens are scored. The last key is one
that the row has. Chance: one in the number of tokens of values.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", and its code
(mad-lab, `generate_fuzzy_in_context_recall_instance` with `multi_query`). There a model is tested
on keys of three tokens alone; here `sizes=(3,)` of the evaluator does that. There the last pair is
chosen first and put at a random place; here it is any pair of the row. As to the loss,
see `seqarch.tasks.context_recall`.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.draws import distinct, first
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class FuzzyRecall(Probe):
    """MAD's fuzzy in-context recall.

    Attributes:
      length: tokens of a row.
      vocab: number of tokens of keys and of values, half of them each, and the padding.
      longest: tokens of the longest keys and values.
      shortest: tokens of the shortest keys.
      training_rows: rows that training has, in every epoch anew; 0: new ones in every batch.
    """

    size: ClassVar[str] = "shortest"
    sizes: ClassVar[tuple[float, ...]] = (3,)
    length: int = 128
    vocab: int = 16
    longest: int = 3
    shortest: int = 1
    training_rows: int = 0

    def __post_init__(self):
        if self.shortest > self.longest:
            raise UserError(
                f"fuzzy_recall has keys of {self.shortest} to {self.longest} tokens; give a "
                "shortest of at most the longest"
            )
        for option, least in (("length", 4 * self.longest), ("vocab", 2 * self.longest + 1)):
            if getattr(self, option) < least:
                raise UserError(
                    f"fuzzy_recall with keys of {self.longest} tokens needs a {option} of {least} "
                    f"or more; {option} is {getattr(self, option)}"
                )

    @property
    def _keys(self) -> int:
        """The number of tokens of keys, the first; then follow those of values, and padding."""
        return (self.vocab - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 1 - self._keys)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        row, longest = np.arange(count), self.longest
        keys = self._motifs(rng, count, self._keys, self.shortest)
        values = self._motifs(rng, count, self.vocab - 1 - self._keys, 1)
        values = np.where(values < 0, -1, self._keys + values)
        origin = first(((keys + 1) * self.vocab ** np.arange(longest)).sum(axis=2))
        values = np.take_along_axis(values, origin[..., None], axis=1)
        pairs, again = np.concatenate([keys, values], axis=2), origin != np.arange(keys.shape[1])
        fits = (pairs >= 0).sum(axis=2).cumsum(axis=1) <= self.length - 2 * longest
        last = pairs[row, rng.integers(fits.sum(axis=1))]

        pairs = np.concatenate([np.where(fits[..., None], pairs, -1), last[:, None]], axis=1)
        scored = np.zeros(pairs.shape, bool)
        scored[..., longest:] = np.pad(again, ((0, 0), (0, 1)), constant_values=True)[..., None]
        return self._rows(pairs.reshape(count, -1), scored.reshape(count, -1))

    def _motifs(
        self, rng: np.random.Generator, count: int, below: int, shortest: int
    ) -> Int[np.ndarray, "B P L"]:
        """Returns as many motifs as a row can have; -1 after the end of shorter ones."""
        shape = (count, self.length // (1 + self.shortest))
        tokens = distinct(rng, shape[0] * shape[1], self.longest, below).reshape(*shape, -1)
        sizes = rng.integers(shortest, self.longest + 1, size=shape)
        return np.where(np.arange(self.longest) < sizes[..., None], tokens, -1)

    def _rows(self, given: Int[np.ndarray, "B n"], asked: np.ndarray) -> Rows:
        """Returns rows of the given tokens that are not -1, after padding."""
        tokens = np.full((len(given), self.length), self.vocab - 1)
        held = given >= 0
        places = self.length - held.sum(axis=1, keepdims=True) + held.cumsum(axis=1) - 1
        row = np.broadcast_to(np.arange(len(given))[:, None], given.shape)
        tokens[row[held], places[held]] = given[held]
        asked = asked & held
        return Rows.asking(tokens, (row[asked], places[asked] - 1), given[asked])

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        answers = np.full_like(tokens, -1)
        for row, answer in zip(tokens.tolist(), answers, strict=True):
            value_of, key, value = {}, (), ()
            for place, token in enumerate(row):
                if token < self._keys:
                    if value:
                        value_of[key], key, value = value, (), ()
                    key += (token,)
                elif token < self.vocab - 1:
                    value += (token,)
                known = value_of.get(key, ())
                if len(value) < len(known):
                    answer[place] = known[len(value)]
        return answers
