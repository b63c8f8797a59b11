"""Holm's correction over a family of comparisons, which is declared before the runs."""

import itertools
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.05  # probability of one false verdict in a family


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Returns p-values that are adjusted for the size of their family.

        adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    Rejecting those up to a level rejects any true hypothesis with at most that probability.

    Args:
      p_values: the p-value of every comparison of the declared family; 1 for one that has too
        little evidence to be made, so that the family keeps its size.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(p_values, key=p_values.get)
    steps = (min(1.0, (len(order) - j) * p_values[key]) for j, key in enumerate(order))
    return dict(zip(order, itertools.accumulate(steps, max), strict=True))


def told_apart(p_values: Mapping[Key, float]) -> list[Key]:
    """Returns the comparisons of a family that differ at LEVEL over the whole family."""
    return [key for key, p in holm(p_values).items() if p <= LEVEL]
