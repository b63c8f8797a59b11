"""Holm's correction: a published example, and the closed test that it shortens."""

import itertools

import numpy as np
import pytest

from seqarch.stats.holm import holm, told_apart
from seqarch.stats.letters import corrected_letters


def test_adjusted_p_values_of_a_known_family():
    """As statsmodels' multipletests(method="holm") and R's p.adjust give them."""
    found = holm(dict(a=0.01, b=0.04, c=0.03, d=0.005))
    assert found == pytest.approx(dict(a=0.03, b=0.06, c=0.06, d=0.02))
    assert told_apart(dict(a=0.01, b=0.04, c=0.03, d=0.005)) == ["d", "a"]
    assert holm({}) == {} and holm(dict(a=0.7, b=0.6)) == dict(a=1.0, b=1.0)


def test_it_is_the_closed_test_of_bonferroni():
    """A hypothesis is rejected where every intersection with it is: all subsets, enumerated."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = dict(enumerate(rng.beta(0.3, 2.0, 5)))
        sets = [each for size in range(1, 6) for each in itertools.combinations(p, size)]
        local = {each: min(1.0, len(each) * min(p[key] for key in each)) for each in sets}
        expected = {key: max(local[each] for each in sets if key in each) for key in p}
        assert holm(p) == pytest.approx(expected)


def test_the_size_of_the_family_counts():
    """A comparison that cannot be made has p = 1 and stays in the family."""
    assert told_apart(dict(a=0.02)) == ["a"]
    assert told_apart(dict(a=0.02, b=1.0, c=1.0)) == []


def test_a_true_family_is_rejected_at_most_as_often_as_the_level_says():
    rng, rejected = np.random.default_rng(1), 0
    for _ in range(2000):
        rejected += bool(told_apart(dict(enumerate(rng.uniform(size=6)))))
    assert 0.03 < rejected / 2000 < 0.065


def test_letters_follow_from_the_corrected_decisions():
    pairs = [frozenset(pair) for pair in ("ab", "bc", "ac")]
    assert corrected_letters("abc", dict(zip(pairs, (0.02, 0.5, 0.01), strict=True))) == {
        "a": "a",
        "b": "b",
        "c": "b",
    }
    apart = corrected_letters("abc", dict(zip(pairs, (0.03, 0.5, 0.01), strict=True)))
    assert apart == {"a": "a", "b": "a b", "c": "b"}
