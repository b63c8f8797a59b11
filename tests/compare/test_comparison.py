"""Statements from several runs: the choice of a learning rate, means over seeds, differences and
their letters.
"""

import math
import statistics

import numpy as np
import pytest
from seqarch.compare.evidence import judged, over_seeds

from seqarch.compare.learning_rate import EXTENSIONS, search
from seqarch.errors import NoResult
from seqarch.report.tables import Row
from seqarch.stats.letters import letters


def bowl(best):
    return lambda lr: math.log(lr / best) ** 2


def test_search_takes_the_best_of_the_grid():
    found = search((1e-3, 3e-3, 9e-3), bowl(2.5e-3))
    assert found.best == 3e-3 and list(found.scores) == [1e-3, 3e-3, 9e-3]


@pytest.mark.parametrize(
    "best, tried",
    [(0.028, [1e-3, 3e-3, 9e-3, 0.027, 0.081]), (3.1e-4, [1.11e-4, 3.33e-4, 1e-3, 3e-3, 9e-3])],
)
def test_search_goes_on_beyond_an_edge(best, tried):
    found = search((1e-3, 3e-3, 9e-3), bowl(best))
    assert found.best == tried[3 if best > 1e-2 else 1] and list(found.scores) == pytest.approx(
        tried
    )


def test_search_ends_where_training_diverges():
    found = search((1e-3, 3e-3), lambda lr: math.inf if lr > 3e-3 else -lr)
    assert found.best == 3e-3 and found.scores[9e-3] == math.inf


def test_search_without_an_optimum_is_told():
    tried = []
    with pytest.raises(NoResult, match="still stands at the edge"):
        search((1e-3, 3e-3), lambda lr: tried.append(lr) or -lr)
    assert len(tried) == 2 + EXTENSIONS
    with pytest.raises(NoResult, match="diverged at every learning rate of 0.001, 0.003"):
        search((1e-3, 3e-3), lambda lr: math.inf)


@pytest.mark.parametrize(
    "apart, expected",
    [
        ([], "a a a a"),
        (["ab", "ac", "ad", "bc", "bd", "cd"], "a b c d"),
        (["ac", "ad", "bd"], "a ab bc c"),
        (["ad"], "a ab ab b"),
        (["ab", "cd"], "ab cd ac bd"),  # no chain: told apart are only neighbours
    ],
)
def test_two_share_a_letter_exactly_when_they_are_not_apart(apart, expected):
    found = letters("abcd", [frozenset(pair) for pair in apart])
    for first in "abcd":
        for second in "abcd":
            shared = bool(set(found[first].split()) & set(found[second].split()))
            assert shared == (frozenset((first, second)) not in map(frozenset, apart))
    if apart != ["ab", "cd"]:
        assert [found[name].replace(" ", "") for name in "abcd"] == expected.split()


def scored(name, offset, noise=0.0):
    """A member with three seeds on four works of different sizes; works differ by far more than
    members do.
    """
    rng, sizes = np.random.default_rng(len(name)), {"w": 100, "x": 300, "y": 200, "z": 400}
    by_seed = {}
    for seed in range(3):
        works = {
            work: 2.0 + 0.3 * i + offset + noise * rng.normal() for i, work in enumerate(sizes)
        }
        total = sum(works[work] * size for work, size in sizes.items()) / 1000
        by_seed[seed] = {
            "quality/bits_per_byte": total,
            "quality/by_document": works,
            "quality/documents": [[sizes[work], bits] for work, bits in works.items()],
            "quality/loss_by_position": [4.0 + seed, 3.0],
            "quality/split": "test",
            "memory/params": 10 + seed,
        }
    return Row(name, "model", over_seeds(by_seed))


def test_scores_are_means_over_seeds_and_the_rest_is_the_first_one_s():
    values = scored("a", 0.0).values
    assert values["quality/bits_per_byte"] == pytest.approx(2 + 0.3 * (300 + 400 + 1200) / 1000)
    assert values["quality/by_document"]["z"] == pytest.approx(2.9)
    assert values["quality/loss_by_position"] == [5.0, 3.0]
    assert values["quality/split"] == "test" and values["memory/params"] == 10
    assert set(values["evidence/by_seed"]) == {"0", "1", "2"}


def test_paired_differences_are_told_where_unpaired_ones_are_not():
    """0.02 bits in every work is a difference; 0.02 on average, with works and seeds that disagree,
    is none.
    """
    best, steady, erratic = judged(
        [scored("best", 0.0), scored("steady", 0.02), scored("erratic", 0.02, noise=0.1)]
    )
    assert best.values["evidence/behind"] == 0 and best.values["evidence/letters"].split()[0] == "a"
    assert (
        steady.values["evidence/behind"] == pytest.approx(0.02)
        and steady.values["evidence/behind_low"] > 0
    )
    assert not set(steady.values["evidence/letters"].split()) & set(
        best.values["evidence/letters"].split()
    )
    assert erratic.values["evidence/behind_low"] < 0 < erratic.values["evidence/behind_high"]
    assert set(erratic.values["evidence/letters"].split()) & set(
        best.values["evidence/letters"].split()
    )


def test_the_deviation_over_seeds_is_that_of_a_sample():
    first, second = scored("a", 0.0), scored("b", 0.1, noise=0.1)
    (_, row) = judged([first, second])
    sizes = np.array([100, 300, 200, 400])
    totals = [
        np.array(works)[:, 1] @ sizes / 1000 for works in second.values["evidence/by_seed"].values()
    ]
    assert row.values["evidence/deviation"] == pytest.approx(statistics.stdev(totals))


def test_one_seed_is_no_evidence():
    row = Row(
        "a",
        "model",
        over_seeds(
            {0: {"quality/bits_per_byte": 2.0, "quality/documents": [[10, 2.0], [20, 2.0]]}}
        ),
    )
    assert judged([row]) == [row]
