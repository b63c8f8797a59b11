"""MAD's in-context recall: every key that comes again is asked for its value.

    tokens    k3 v1 k1 v7 k3 v1 k5 v2 ... k1 v7
    targets   -  -  -  -  v1 -  -  -  ... v7 -

Keys are drawn with replacement, and each has one value in a row. The value follows, whatever a
model answers. The last key is one that the row has. Chance: one in the number of values.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", and its code
(mad-lab, `generate_in_context_recall_instance` with `multi_query`). There a loss at every token
trains the model, on 12,800 fixed rows; here the scored positions do, by default of new rows. There
the last value is cut off.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.draws import one_of, previous
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class ContextRecall(Probe):
    """MAD's in-context recall.

    Attributes:
      length: tokens of a row, an even number.
      vocab: number of keys and values, half of them each, and of noise tokens.
      training_rows: rows that training has, in every epoch anew; 0: new ones in every batch.
    """

    noise: ClassVar[float] = 0.0
    noise_vocab: ClassVar[int] = 0
    length: int = 128
    vocab: int = 16
    training_rows: int = 0

    def __post_init__(self):
        if self.length % 2 or self.length < 4:
            raise UserError(f"MAD's recall needs an even length of 4 or more, not {self.length}")
        if self._keys < 2:
            least = self.noise_vocab + 4
            raise UserError(f"MAD's recall needs a vocab of {least} or more, not {self.vocab}")

    @property
    def _keys(self) -> int:
        """The number of keys, which are the first tokens; then follow values, then noise."""
        return (self.vocab - self.noise_vocab) // 2

    @property
    def most_scored(self) -> int:
        return self.length // 2

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - self.noise_vocab - self._keys)

    @property
    def domain_bits(self) -> float:
        return self.length / 2 * math.log2(self._keys)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        keys = rng.integers(self._keys, size=(count, self.length // 2))
        value_of = rng.integers(self._keys, self.vocab - self.noise_vocab, (count, self._keys))
        noisy = self._noisy(rng, keys.shape)
        keys[:, -1] = one_of(rng, np.where(noisy, self._keys, keys)[:, :-1], self._keys)
        pairs = np.stack([keys, np.take_along_axis(value_of, keys, axis=1)], axis=2)
        if self.noise:
            junk = rng.integers(self.vocab - self.noise_vocab, self.vocab, size=pairs.shape)
            pairs = np.where(noisy[..., None], junk, pairs)
        tokens = pairs.reshape(count, self.length)
        targets, scored = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
        targets[:, ::2] = tokens[:, 1::2]
        scored[:, ::2] = self._evidence(tokens) >= 0
        return Rows(tokens, targets, scored)

    def _noisy(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Returns which pairs are noise: neither the last one, nor one of the others."""
        noisy = np.zeros(shape, bool)
        if self.noise:
            noisy[:, :-1] = rng.random((shape[0], shape[1] - 1)) < self.noise
            noisy[np.arange(shape[0]), rng.integers(shape[1] - 1, size=shape[0])] = False
        return noisy

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        pair, answers = self._evidence(tokens), np.full_like(tokens, -1)
        values = np.take_along_axis(tokens[:, 1::2], np.maximum(pair, 0), axis=1)
        answers[:, ::2] = np.where(pair >= 0, values, -1)
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from the key's last value to the key."""
        value = 2 * np.repeat(self._evidence(tokens), 2, axis=1) + 1
        return np.arange(self.length) - value

    def _evidence(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B P"]:
        """Returns the last pair before each one that has its key; -1 where there is none."""
        keys = tokens[:, ::2]
        alone = self.vocab + np.arange(keys.shape[1])
        return previous(np.where(keys < self._keys, keys, alone))
