"""Statements from several runs: the choice of a learning rate, differences and their letters."""

import math
import statistics

import numpy as np
import pytest

from seqarch.compare.learning_rate import EXTENSIONS, search
from seqarch.errors import NoResult
from seqarch.records import Record, Results, Source
from seqarch.report.comparison import difference_table, significance
from seqarch.report.members import Comparison, Member
from seqarch.stats.bootstrap import paired_bootstrap
from seqarch.stats.crossed import crossed_t
from seqarch.stats.letters import letters
from seqarch.stats.significance import judge


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


SIZES = np.array([100, 300, 200, 400])


def scores(offset, noise=0.0, seed=0):
    """Of three seeds on four documents of different sizes, which differ by far more than members
    do.
    """
    by_document = 2.0 + 0.3 * np.arange(4) + offset
    return by_document + noise * np.random.default_rng(seed).normal(size=(3, 4))


def letters_of(judgement):
    return set(judgement.letters.split())


def test_paired_differences_are_told_where_unpaired_ones_are_not():
    """0.02 bits in every document is a difference; 0.02 on average, with documents and seeds that
    disagree, is none.
    """
    erratic = scores(0.02, noise=0.1)
    erratic += 0.02 - (erratic - scores(0.0)).mean()
    given = dict(best=scores(0.0), steady=scores(0.02), erratic=erratic)
    found = judge(given, SIZES)
    assert found["best"].behind.mean == 0 and "a" in letters_of(found["best"])
    assert found["steady"].behind.mean == pytest.approx(0.02) and found["steady"].behind.low > 0
    assert not letters_of(found["steady"]) & letters_of(found["best"])
    assert found["erratic"].behind.low < 0 < found["erratic"].behind.high
    assert letters_of(found["erratic"]) & letters_of(found["best"])


def test_the_deviation_over_seeds_is_that_of_a_sample_of_scores_over_all_bytes():
    noisy = scores(0.1, noise=0.1)
    found = judge(dict(a=scores(0.0), b=noisy), SIZES)
    totals = noisy @ SIZES / SIZES.sum()
    assert found["b"].deviation == pytest.approx(statistics.stdev(totals))
    assert found["a"].deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cut", [np.s_[:1], np.s_[:, :1]])
def test_one_seed_or_one_document_is_no_evidence(cut):
    assert (
        judge(dict(a=scores(0.0)[cut], b=scores(1.0)[cut]), SIZES[: scores(0.0)[cut].shape[1]])
        == {}
    )
    assert judge({}, SIZES) == {}


def many(offset, noise, seed):
    """Scores of five seeds on twelve documents."""
    return 2.0 + offset + noise * np.random.default_rng(seed).normal(size=(5, 12))


def test_five_seeds_and_twelve_documents_get_the_crossed_interval_and_corrected_letters():
    sizes = np.arange(1.0, 13.0)
    given = dict(a=many(0.0, 0.01, 1), b=many(0.1, 0.01, 2), c=many(0.1, 0.01, 3))
    found = judge(given, sizes)
    assert all(each.crossed for each in found.values())
    assert found["b"].behind == crossed_t(given["b"] - given["a"], sizes).interval
    assert not letters_of(found["a"]) & letters_of(found["b"])
    assert letters_of(found["b"]) & letters_of(found["c"])
    fewer = judge({name: each[:4] for name, each in given.items()}, sizes)
    assert not any(each.crossed for each in fewer.values())
    assert fewer["b"].behind == paired_bootstrap(given["b"][:4] - given["a"][:4], sizes)


def test_crossed_letters_are_corrected_for_the_number_of_pairs():
    """A difference that is one on its own is none among ten members' forty-five."""
    sizes, noise = np.ones(12), many(0.0, 0.01, 1)
    near = noise + 0.012 + np.linspace(-0.008, 0.008, 5)[:, None]
    assert crossed_t(near - noise, sizes).p < 0.05 / 2
    pair = judge(dict(a=noise, b=near), sizes)
    assert not letters_of(pair["a"]) & letters_of(pair["b"])
    same = {f"like {index}": noise + 1e-9 * index for index in range(8)}
    family = judge(dict(a=noise, b=near) | same, sizes)
    assert letters_of(family["a"]) & letters_of(family["b"])
    assert family["b"].behind.low > 0  # its interval is unadjusted


def member(name, runs, documents=("w", "x", "y", "z"), sizes=SIZES):
    """A member whose runs have these scores of documents; a run of None was not scored."""
    at, results = {"document": list(documents)}, []
    for seed, bits in enumerate(runs):
        found = (
            [] if bits is None else [Record("quality", "document_bits_per_byte", list(bits), at)]
        )
        found.append(Record("quality", "document_bytes", sizes.tolist(), at))
        results.append(Results(Source(name, seeds=dict(model=seed)), tuple(found)))
    return Member(name, "run", tuple(results))


def test_members_are_judged_by_the_documents_that_all_were_scored_on():
    given = dict(a=scores(0.0), b=scores(0.1, noise=0.01))
    models = [member(name, each) for name, each in given.items()]
    found = significance(models)
    assert found == judge(given, SIZES)
    assert "from drawing documents and seeds" in caption(models)


def caption(models):
    """The caption of the table of differences."""
    compared = Comparison("", "", "", tuple(models))
    return difference_table(compared, significance(models)).caption


def test_a_report_says_that_its_interval_is_the_crossed_one():
    names, sizes = [f"scene {index}" for index in range(12)], np.arange(1.0, 13.0)
    given = dict(a=many(0.0, 0.01, 1), b=many(0.1, 0.01, 2))
    models = [member(name, each, names, sizes) for name, each in given.items()]
    assert significance(models) == judge(given, sizes)
    told = caption(models)
    assert "crossed t interval" in told and "unadjusted" in told and "Holm" in told
    assert "from drawing" not in told


@pytest.mark.parametrize(
    "other",
    [
        member("b", scores(0.1)[:2]),
        member("b", [*scores(0.1)[:2], None]),
        member("b", scores(0.1), documents=("w", "x", "y", "other")),
        member("b", [None] * 3),
    ],
)
def test_members_that_were_scored_otherwise_are_not_judged(other):
    assert significance([member("a", scores(0.0)), other]) == {}
    assert significance([]) == {}
