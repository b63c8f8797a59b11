"""Which members of a comparison differ, on the same items and with the same data orders.

Seeds and items are drawn with replacement, and a pair differs where the 95 % interval of its
difference leaves out zero. Each pair is judged on its own, without a correction for their number.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from seqarch.stats.bootstrap import Interval, paired_bootstrap
from seqarch.stats.letters import letters
from seqarch.types import Float


class Judgement(NamedTuple):
    """How a member compares with the others.

    Attributes:
      deviation: standard deviation over seeds.
      behind: its difference from the best member.
      letters: those that it shares with the members from which it does not differ.
    """

    deviation: float
    behind: Interval
    letters: str


def judge(
    scores: Mapping[str, Float[np.ndarray, "seeds items"]], weights: Float[np.ndarray, "items"]
) -> dict[str, Judgement]:
    """Judges members by scores of which lower is better.

    Args:
      scores: the score of each seed and item, by member.
      weights: weight of each item, such as a document's bytes.

    Returns:
      A judgement for each member; none where there are fewer than two seeds or items, which are no
      evidence.
    """
    if min((min(each.shape) for each in scores.values()), default=0) < 2:
        return {}
    pooled = {name: each @ weights / weights.sum() for name, each in scores.items()}
    order = sorted(scores, key=lambda name: pooled[name].mean())
    pairs = list(itertools.combinations(order, 2))  # the better one first
    differ = {
        frozenset(pair): paired_bootstrap(scores[pair[1]] - scores[pair[0]], weights)
        for pair in pairs
    }
    apart = [pair for pair, interval in differ.items() if interval.low > 0 or interval.high < 0]
    shared = letters(order, apart)
    zero = Interval(0.0, 0.0, 0.0)  # of the best itself
    judged = {}
    for name in scores:
        behind = differ.get(frozenset((order[0], name)), zero)
        judged[name] = Judgement(float(pooled[name].std(ddof=1)), behind, shared[name])
    return judged
