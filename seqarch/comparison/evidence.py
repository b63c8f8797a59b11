"""From runs of several seeds to statements: means over seeds, and which differences between members are differences.

Members are compared in pairs, on the same works and with the same data orders: seeds and works are drawn with replacement,
and a pair differs where the 95 % interval of its difference leaves out zero. Each pair is judged on its own.
"""

import dataclasses
import itertools
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqarch.measure.bootstrap import Interval, paired_bootstrap
from seqarch.measure.tables import Row

SCORES = ("quality", "context")  # evaluators whose values are means over seeds; the others measure one of them


def over_seeds(by_seed: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The values of a member: scores as means over its seeds, all else as its first seed has it.

    "evidence/by_seed" keeps what was averaged: of each seed [bytes, bits per byte] of every work.
    """
    values, *_ = found = list(by_seed.values())
    means = {name: _mean([each[name] for each in found]) for name in values if name.split("/")[0] in SCORES}
    kept = {str(seed): each["quality/documents"] for seed, each in by_seed.items()}
    return values | means | {"evidence/by_seed": kept}


def judged(rows: Sequence[Row]) -> list[Row]:
    """Rows of models with evidence/*: the spread over seeds, the difference from the best with its interval, and letters.

    Rows that share a letter were not told apart. Rows of one seed, or of one work, stay as they are.
    """
    scored = {row.name: np.array(list(row.values["evidence/by_seed"].values())) for row in rows}  # [seeds, works, 2]
    if min((min(each.shape[:2]) for each in scored.values()), default=0) < 2:
        return list(rows)
    bits = {name: each[..., 1] for name, each in scored.items()}
    sizes = scored[rows[0].name][0, :, 0]
    pooled = {name: each @ sizes / sizes.sum() for name, each in bits.items()}
    order = sorted(bits, key=lambda name: pooled[name].mean())
    pairs = itertools.combinations(order, 2)  # the better one first
    differ = {frozenset(pair): paired_bootstrap(bits[pair[1]] - bits[pair[0]], sizes) for pair in pairs}
    apart = [pair for pair, interval in differ.items() if interval.low > 0 or interval.high < 0]
    shared = letters(order, apart)

    def judge(row: Row) -> Row:
        behind = differ.get(frozenset((order[0], row.name)), Interval(0.0, 0.0, 0.0))  # the best itself is behind by nothing
        found = {
            "evidence/deviation": float(pooled[row.name].std(ddof=1)),
            "evidence/behind": behind.mean,
            "evidence/behind_low": behind.low,
            "evidence/behind_high": behind.high,
            "evidence/letters": shared[row.name],
        }
        return dataclasses.replace(row, values=row.values | found)

    return [judge(row) for row in rows]


def letters(order: Sequence[str], apart: Sequence[frozenset[str]]) -> dict[str, str]:
    """Letters for names such that two share one exactly when they are not `apart` (Piepho 2004, "An algorithm for a
    letter-based representation of all-pairwise comparisons"): insert a column for each difference, absorb what is contained.

    order: names from the best on, whose groups get the first letters
    """
    groups = [frozenset(order)]
    for pair in apart:
        split = [group - {name} for group in groups if pair <= group for name in pair]
        groups = [group for group in groups if not pair <= group] + split
        groups = [group for group in set(groups) if not any(group < other for other in groups)]
    rank = {name: place for place, name in enumerate(order)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    names = [*string.ascii_lowercase, *("".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2))]
    return {name: " ".join(letter for letter, group in zip(names, groups) if name in group) for name in order}


def _mean(items: Sequence[Any]) -> Any:
    """Of numbers; of lists and dicts entry by entry; what is the same for all stays as it is."""
    first = items[0]
    if isinstance(first, dict):
        return {key: _mean([item[key] for item in items]) for key in first}
    if isinstance(first, list):
        return [_mean(entries) for entries in zip(*items, strict=True)]
    return first if all(item == first for item in items) else float(np.mean(items))
