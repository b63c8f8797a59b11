"""MAD's noisy in-context recall: in-context recall with pairs of noise between.

    tokens    k3 v1 n4 n1 k1 v7 n2 n2 k3 v1 ... k1 v7        n: noise
    targets   -  -  -  -  -  -  -  -  v1 -  ... v7 -

A pair is two random noise tokens with probability `noise`, but for the last pair and one more.
Chance: one in the number of values.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", and its code
(mad-lab, `generate_noisy_in_context_recall_instance`); see `seqarch.tasks.context_recall` for what
differs.
"""

import dataclasses
from typing import ClassVar

from seqarch.errors import UserError
from seqarch.tasks.context_recall import ContextRecall


@dataclasses.dataclass(frozen=True)
class NoisyRecall(ContextRecall):
    """MAD's noisy in-context recall.

    Attributes:
      length: tokens of a row, an even number.
      vocab: number of keys and values, half of them each, and of noise tokens.
      noise: the probability that a pair is noise; the source tries 0.2 to 0.8.
      noise_vocab: number of noise tokens.
      training_rows: rows that training has, in every epoch anew; 0: new ones in every batch.
    """

    size: ClassVar[str] = "noise"
    sizes: ClassVar[tuple[float, ...]] = (0.4, 0.8)
    vocab: int = 32
    noise: float = 0.2
    noise_vocab: int = 16

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.noise < 1:
            raise UserError(f"noisy_recall needs a noise in [0, 1), not {self.noise}")
