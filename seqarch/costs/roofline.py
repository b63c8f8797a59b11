"""The highest speed of a program on a target, by its roofline.

No program is faster than its FLOPs at the chip's peak rate, nor than the bytes that it must read at
the memory's bandwidth.

Source: Williams et al. 2009, "Roofline: an insightful visual performance model for multicore
architectures".
"""

from typing import NamedTuple

from seqarch.config import Config
from seqarch.costs.devices import Placement
from seqarch.costs.spec import Failed, Outcome
from seqarch.model import count_parameters


class HighestSpeed(NamedTuple):
    """The highest speed that a roofline allows.

    Attributes:
      tokens: tokens per second, of all chips together.
      limit: "bandwidth" or "compute".
    """

    tokens: float
    limit: str


def bound(
    config: Config, placement: Placement, outcome: Outcome, tokens: int, *, unread: int = 1
) -> HighestSpeed | None:
    """Returns the highest speed of a program, by its roofline.

    The bytes are those of state and parameters, each of which is read at least once. FLOPs are at
    the peak rate of bfloat16, which no wider type exceeds.

    Args:
      config: the run's config.
      placement: the target.
      outcome: the program.
      tokens: tokens that a call of the program makes or reads.
      unread: tables of the vocabulary that it does not read: the embedding, of which a token reads
        one row, and in prefill also the unembedding.

    Returns:
      None where the program failed, and for a target without a data sheet.
    """
    sheet = placement.target
    if isinstance(outcome, Failed) or not (sheet.bandwidth and sheet.flops):
        return None
    read = 1 - unread * config.model.vocab * config.model.dim / count_parameters(config.model)
    given = outcome.parameters * read + outcome.state
    reading = given * sheet.devices_per_chip / sheet.bandwidth
    computing = outcome.flops / (placement.chips * sheet.flops)
    limit = "bandwidth" if reading >= computing else "compute"
    return HighestSpeed(tokens / max(reading, computing), limit)


def cost(placement: Placement, speed: float, price: float) -> float:
    """Returns the cost of a million tokens at a speed.

    Args:
      placement: the target.
      speed: tokens per second, of all its chips together.
      price: that of one chip for one hour.
    """
    return 1e6 * price * placement.chips / (3600 * speed)
