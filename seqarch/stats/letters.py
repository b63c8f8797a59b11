"""Letters that members share where they do not differ."""

import itertools
import string
from collections.abc import Mapping, Sequence

from seqarch.stats.holm import told_apart


def corrected_letters(
    order: Sequence[str], p_values: Mapping[frozenset[str], float]
) -> dict[str, str]:
    """Returns letters for names, of which two share one exactly where they are not told apart.

    Args:
      order: names from the best on.
      p_values: the p-value of each pair of a declared family, for which Holm's correction is made.
    """
    return letters(order, told_apart(p_values))


def letters(order: Sequence[str], apart: Sequence[frozenset[str]]) -> dict[str, str]:
    """Returns letters for names, of which two share one exactly where they do not differ.

    A group is split for each difference, and groups that others contain are dropped.

    Args:
      order: names from the best on; the groups of the first get the first letters.
      apart: pairs that differ.

    Source: Piepho 2004, "An algorithm for a letter-based representation of all-pairwise
    comparisons".
    """
    groups = [frozenset(order)]
    for pair in apart:
        split = [group - {name} for group in groups if pair <= group for name in pair]
        groups = [group for group in groups if not pair <= group] + split
        groups = [group for group in set(groups) if not any(group < other for other in groups)]
    rank = {name: place for place, name in enumerate(order)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    pairs = itertools.product(string.ascii_lowercase, repeat=2)
    lettered = list(zip([*string.ascii_lowercase, *map("".join, pairs)], groups))
    return {name: " ".join(letter for letter, group in lettered if name in group) for name in order}
