"""A learning rate from a grid that is the same for every member, and goes on where its best value
stands at an edge.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seqarch.errors import NoResult

EXTENSIONS = 4  # values that may be added to a grid


class Search(NamedTuple):
    """best: the learning rate; scores: of every one that was tried, lower being better, infinite
    where training diverged.
    """

    best: float
    scores: dict[float, float]


def search(lrs: Sequence[float], score: Callable[[float], float]) -> Search:
    """The best of `lrs`, which rise, by `score`. A best value at an edge is no optimum: the grid is
    extended beyond it.

    Raises NoResult where no value is finite, or where the best one still stands at an edge after
    EXTENSIONS values.
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
