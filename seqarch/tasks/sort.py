"""Sorting: the letters of a string in the order of the alphabet.

    tokens    c a b a | _ _ _ | a a b _ _ _ _        |: end and start, _: padding
    targets   - - - - - - - - a a b c - - - -

The first half of a row is the source, which the encoder of an encoder-decoder reads.
Strings have `shortest` letters to as many as fit, all lengths equally likely. Those of so few
letters that there are fewer than 2^14 of them are in every split. The right letters follow,
whatever a model answers. Chance: one in the number of letters.

Source: Deletang et al. 2023, "Neural networks and the Chomsky hierarchy", table A.1 (bucket sort,
there of five letters).
"""

import dataclasses

import numpy as np

from seqarch.tasks.seq2seq import Strings
from seqarch.tasks.strings import StringTask
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class Sort(StringTask):
    """Sorting; the options are those of `StringTask`."""

    def translate(self, source: Int[np.ndarray, "B n"], size: Int[np.ndarray, "B"]) -> Strings:
        behind = np.arange(source.shape[1]) >= size[:, None]
        return np.sort(np.where(behind, self.vocab, source), axis=1), size
