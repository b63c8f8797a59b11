"""Reversal: a string is written from its end.

    tokens    a b c | _ _ _ _ | c b _ _ _ _ _        |: end and start, _: padding
    targets   - - - - - - - - c b a - - - - -

The first half of a row is the source, which the encoder of an encoder-decoder reads.
Strings have `shortest` letters to as many as fit, all lengths equally likely. Those of so few
letters that there are fewer than 2^14 of them are in every split. The right letters follow,
whatever a model answers. Chance: one in the number of letters.

Source: Deletang et al. 2023, "Neural networks and the Chomsky hierarchy", table A.1 (reverse
string, there of two letters); as a source and a target in Grefenstette et al. 2015, "Learning to
transduce with unbounded memory", section 4.1.
"""

import dataclasses

import numpy as np

from seqarch.tasks.seq2seq import Strings
from seqarch.tasks.strings import StringTask
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class Reverse(StringTask):
    """Reversal; the options are those of `StringTask`."""

    def translate(self, source: Int[np.ndarray, "B n"], size: Int[np.ndarray, "B"]) -> Strings:
        last = size[:, None] - 1 - np.arange(source.shape[1])
        return np.take_along_axis(source, np.maximum(last, 0), axis=1), size

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from a letter to where it is predicted."""
        place = np.arange(self.length)
        letter = self.sizes_of(tokens)[:, None] - 1 - (place - self.source_columns)
        return place - np.maximum(letter, 0)
