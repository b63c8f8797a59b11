"""Modular addition: the sum of all numbers so far.

    tokens    3 4 1 0 2
    targets   3 2 3 3 0        modulo 5, with labels=every; the last one alone with labels=end

Numbers are random. Chance: one in the modulus.

Source: Liu et al. 2023, "Transformers learn shortcuts to automata" (cyclic groups).
With the moves -1, 0 and 1 alone it is cycle navigation in Deletang et al. 2023, "Neural networks
and the Chomsky hierarchy"; here any number may be added, so that one token changes every state.
"""

import dataclasses

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.running import RunningProduct
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class ModularAddition(RunningProduct):
    """Modular addition, the cyclic group; further options are those of `RunningProduct`.

    Attributes:
      modulus: number of different tokens.
    """

    modulus: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.modulus < 2:
            raise UserError("modular_addition needs a modulus of 2 or more; modulus is 1")

    @property
    def vocab(self) -> int:
        return self.modulus

    def products(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        return tokens.cumsum(axis=1) % self.modulus
