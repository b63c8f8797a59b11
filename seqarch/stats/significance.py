"""Which members of a comparison differ, on the same items and with the same data orders.

Seeds and items are both random. From 5 seeds and 12 items on, a difference has a crossed t
interval, and members are told apart by its p-value after Holm's correction over all pairs. With
fewer, seeds and items are drawn with replacement, and a pair is told apart where the 95 % interval
of its difference leaves out zero; each pair is then judged on its own, without a correction for
their number.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from seqarch.stats import crossed
from seqarch.stats.bootstrap import Interval, paired_bootstrap
from seqarch.stats.letters import corrected_letters, letters
from seqarch.types import Float


class Judgement(NamedTuple):
    """How a member compares with the others.

    Attributes:
      deviation: standard deviation over seeds.
      behind: its difference from the best member, with an interval that is not adjusted for the
        number of pairs.
      letters: those that it shares with the members from which it does not differ.
      crossed: whether the interval is the crossed t interval, and letters are corrected.
    """

    deviation: float
    behind: Interval
    letters: str
    crossed: bool = False


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
    pairs = itertools.combinations(order, 2)  # the better one first
    differences = {frozenset(pair): scores[pair[1]] - scores[pair[0]] for pair in pairs}
    is_crossed = all(crossed.enough(*each.shape) for each in scores.values())
    compare = _crossed if is_crossed else _resampled
    intervals, shared = compare(order, differences, weights)
    zero = Interval(0.0, 0.0, 0.0)  # of the best itself
    judged = {}
    for name in scores:
        behind = intervals.get(frozenset((order[0], name)), zero)
        deviation = float(pooled[name].std(ddof=1))
        judged[name] = Judgement(deviation, behind, shared[name], is_crossed)
    return judged


Pairs = Mapping[frozenset[str], Float[np.ndarray, "seeds items"]]
Compared = tuple[dict[frozenset[str], Interval], dict[str, str]]  # intervals, and letters


def _crossed(order: list[str], differences: Pairs, weights: Float[np.ndarray, "items"]) -> Compared:
    found = {pair: crossed.crossed_t(each, weights) for pair, each in differences.items()}
    intervals = {pair: Interval(*map(float, each.interval)) for pair, each in found.items()}
    return intervals, corrected_letters(order, {pair: each.p for pair, each in found.items()})


def _resampled(
    order: list[str], differences: Pairs, weights: Float[np.ndarray, "items"]
) -> Compared:
    intervals = {pair: paired_bootstrap(each, weights) for pair, each in differences.items()}
    apart = [pair for pair, each in intervals.items() if each.low > 0 or each.high < 0]
    return intervals, letters(order, apart)
