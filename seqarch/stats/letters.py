"""Letters that say which of several members were told apart."""

import itertools
import string
from collections.abc import Sequence


def letters(order: Sequence[str], apart: Sequence[frozenset[str]]) -> dict[str, str]:
    """Letters for names such that two share one exactly when they are not `apart` (Piepho 2004, "An
    algorithm for a letter-based representation of all-pairwise comparisons"): insert a column for
    each difference, absorb what is contained.

    order: names from the best on, whose groups get the first letters
    """
    groups = [frozenset(order)]
    for pair in apart:
        split = [group - {name} for group in groups if pair <= group for name in pair]
        groups = [group for group in groups if not pair <= group] + split
        groups = [group for group in set(groups) if not any(group < other for other in groups)]
    rank = {name: place for place, name in enumerate(order)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    names = [
        *string.ascii_lowercase,
        *("".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2)),
    ]
    return {
        name: " ".join(letter for letter, group in zip(names, groups) if name in group)
        for name in order
    }
