"""The search for a learning rate, on a grid that is the same for every member."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seqarch.errors import NoResult

EXTENSIONS = 4  # learning rates that may be added to a grid


class Search(NamedTuple):
    """The end of a search.

    Attributes:
      best: the best learning rate.
      scores: the score of each learning rate that was tried; lower is better, and infinite where
        training diverged.
    """

    best: float
    scores: dict[float, float]


def search(lrs: Sequence[float], score: Callable[[float], float]) -> Search:
    """Returns the best learning rate of a grid.

    A best value at an edge need not be an optimum, so the grid is then extended beyond that edge.

    Args:
      lrs: rising learning rates.
      score: returns the score of a learning rate; lower is better.

    Raises:
      NoResult: where no score is finite, and where the best value still stands at an edge after
        EXTENSIONS further ones.
    """
    scores = {lr: score(lr) for lr in lrs}
    below, above = lrs[0] / lrs[1], lrs[-1] / lrs[-2]
    while math.isfinite(min(scores.values())):
        best = min(scores, key=scores.get)
        if min(scores) < best < max(scores):
            return Search(best, dict(sorted(scores.items())))
        if len(scores) == len(lrs) + EXTENSIONS:
            raise NoResult(
                f"the best learning rate {best:g} still stands at the edge of {_text(scores)}; "
                "give other config.lrs"
            )
        new = float(f"{best * (below if best == min(scores) else above):.3g}")
        scores[new] = score(new)
    raise NoResult(
        f"training diverged at every learning rate of {_text(scores)}; give smaller config.lrs"
    )


def _text(scores: dict[float, float]) -> str:
    return ", ".join(f"{lr:g}" for lr in sorted(scores))
