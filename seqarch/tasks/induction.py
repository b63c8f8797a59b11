"""Induction heads: the token that followed the trigger is asked for after the trigger's return.

    tokens    a  b  S  m  c  d  ...  e  S        S: the trigger, twice in a row
    targets   -  -  -  -  -  -  ...  -  m

The first trigger stands anywhere before the last two tokens, the second one is the last token, and
all others are random. Chance: one in the number of ordinary tokens.

Source: Gu and Dao 2023, "Mamba", section 4.1.2 and appendix E.1: vocabulary 16, trained at 256
tokens, tested at 64 to 2^20. Its code was not released; that the answer directly follows the
trigger is from Fu et al. 2023, "Hungry hungry hippos", whose task it takes up. Very long rows need
few of them, and a small batch: `--config.evals.accuracy.lengths='(1048576,)'
--config.evals.accuracy.rows=16 --config.eval.batch=1`.
"""

import dataclasses
import math

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class Induction(Probe):
    """Induction heads.

    Attributes:
      length: tokens of a row.
      vocab: number of ordinary tokens, and the trigger.
    """

    length: int = 256
    vocab: int = 16

    def __post_init__(self):
        if self.length < 3:
            raise UserError(f"induction needs a length of 3 or more; length is {self.length}")
        if self.vocab < 3:
            raise UserError(f"induction needs a vocab of 3 or more; vocab is {self.vocab}")

    @property
    def most_scored(self) -> int:
        return 1

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 1)

    @property
    def domain_bits(self) -> float:
        return (self.length - 2) * math.log2(self.vocab - 1)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        trigger, row = self.vocab - 1, np.arange(count)
        tokens = rng.integers(trigger, size=(count, self.length))
        place = rng.integers(self.length - 2, size=count)
        tokens[row, place] = tokens[:, -1] = trigger
        return Rows.asking(tokens, np.s_[:, -1], tokens[row, place + 1])

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        answers = np.full_like(tokens, -1)
        answers[:, -1] = tokens[np.arange(len(tokens)), self._trigger(tokens) + 1]
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from the answer to the second trigger."""
        return np.arange(self.length) - (self._trigger(tokens)[:, None] + 1)

    def _trigger(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B"]:
        """Returns the place of the first trigger."""
        return (tokens[:, :-1] == self.vocab - 1).argmax(axis=1)
