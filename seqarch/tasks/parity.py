"""Parity: whether the number of ones so far is odd.

    tokens    1 0 1 1 0 1
    targets   1 1 0 1 1 0        with labels=every; the last one alone with labels=end

Bits are random. Chance: one in two. A row of 13 tokens or fewer is one of so few that training has
all of them, and held-out rows are not disjoint from it.

Source: Deletang et al. 2023, "Neural networks and the Chomsky hierarchy", table A.1, and its code
(neural_networks_chomsky_hierarchy, `ParityCheck`), which scores the end of rows of 1 to 40 bits in
training and of up to 500 in tests: `parity(length=40,labels=end,shortest=1)`. Grazzi et al. 2025,
"Unlocking state-tracking in linear RNNs through negative eigenvalues", has 3 to 40, and 256.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from seqarch.tasks.running import RunningProduct
from seqarch.types import Int


@dataclasses.dataclass(frozen=True)
class Parity(RunningProduct):
    """Parity, the group of two elements; the options are those of `RunningProduct`."""

    vocab: ClassVar[int] = 2

    def products(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        return tokens.cumsum(axis=1) % 2
