"""Selective copying: tokens among blanks are repeated in order.

    tokens    .  a  .  .  b  c  .  |  |  |        .: blank, |: marker
    targets   -  -  -  -  -  -  -  a  b  c

`variant=mamba`: tokens to copy stand anywhere, and a marker asks for each. `variant=mad`: one
marker is followed by blanks, which ask for the tokens, and each blank before it goes before a
random one of the tokens, so that the last one stands right before the marker. A model does not see
the answers that it gave. Chance: one in the number of ordinary tokens.

Source: Gu and Dao 2023, "Mamba", section 4.1.1 (4,096 blanks and tokens, 16 to copy, vocabulary
16), by the code of S4 (`torch_copying_data` with `variable`); Poli et al. 2024, "Mechanistic
design and scaling of hybrid architectures", and its code (mad-lab,
`generate_selective_copying_instance`: 256 tokens in all).
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

VARIANTS = ("mamba", "mad")


@dataclasses.dataclass(frozen=True)
class SelectiveCopy(Probe):
    """Selective copying.

    Attributes:
      length: tokens of a row, answers included.
      vocab: number of ordinary tokens, the blank and the marker.
      copied: number of tokens to copy.
      variant: "mamba" or "mad".
      training_rows: rows that training has, in every epoch anew; 0: new ones in every batch.
    """

    ability: ClassVar[str] = "copying"
    size: ClassVar[str] = "copied"
    length: int = 256
    vocab: int = 16
    copied: int = 16
    variant: str = "mamba"
    training_rows: int = 0

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise unknown("variant of task selective_copy", self.variant, VARIANTS)
        needed = 2 * self.copied + (self.variant == "mad")
        if self.length < needed:
            raise UserError(
                f"selective_copy of {self.copied} tokens needs a length of {needed} or more; "
                f"length is {self.length}"
            )
        if self.vocab < 4:
            raise UserError(f"selective_copy needs a vocab of 4 or more; vocab is {self.vocab}")

    @property
    def most_scored(self) -> int:
        return self.copied

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 2)

    @property
    def domain_bits(self) -> float:
        return self.copied * math.log2(self.vocab - 2)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        blank, marker, asked = self.vocab - 2, self.vocab - 1, self.length - self.copied
        copied = rng.integers(blank, size=(count, self.copied))
        tokens = np.full((count, self.length), blank)
        if self.variant == "mamba":
            places = self._places(rng, count, asked)
            tokens[:, asked:] = marker
        else:
            places = self._places_before(rng, count, asked - 1)
            tokens[:, asked - 1] = marker
        np.put_along_axis(tokens, places, copied, axis=1)
        return Rows.asking(tokens, np.s_[:, asked:], copied)

    def _places(self, rng: np.random.Generator, count: int, end: int) -> Int[np.ndarray, "B n"]:
        """Returns places before `end`, each equally likely, in order."""
        chosen = np.argpartition(rng.random((count, end)), self.copied - 1, axis=1)
        return np.sort(chosen[:, : self.copied], axis=1)

    def _places_before(
        self, rng: np.random.Generator, count: int, end: int
    ) -> Int[np.ndarray, "B n"]:
        """Returns places, the last right before `end`, with blanks that chose one to precede."""
        shares = np.full(self.copied, 1 / self.copied)
        blanks = rng.multinomial(end - self.copied, shares, size=count)
        return blanks.cumsum(axis=1) + np.arange(self.copied)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        answers = np.full_like(tokens, -1)
        copied = np.take_along_axis(tokens, self._sources(tokens), axis=1)
        answers[:, self.length - self.copied :] = copied
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from a token to its copy."""
        found = np.zeros_like(tokens)
        asked = np.arange(self.length - self.copied, self.length)
        found[:, asked] = asked - self._sources(tokens)
        return found

    def _sources(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B n"]:
        """Returns the places of the tokens to copy."""
        is_blank = tokens >= self.vocab - 2
        return np.argsort(is_blank, axis=1, kind="stable")[:, : self.copied]
