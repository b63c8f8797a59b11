"""Multi-query associative recall: a worked row, its invariants, and what it refuses."""

import numpy as np
import pytest

from seqarch.errors import UserError
from seqarch.tasks.draws import distinct
from seqarch.tasks.mqar import MQAR
from seqarch.tasks.trivial import trivial_accuracy


def test_a_row_by_hand():
    """Keys 0..3, values 4..7: 1 means 6, 3 means 5; both are asked for, 3 first."""
    task = MQAR(pairs=2, length=10, vocab=8)
    tokens = np.array([[1, 6, 3, 5, 3, 0, 7, 2, 1, 4]])
    expected = np.array([[-1, -1, -1, -1, 5, -1, -1, -1, 6, -1]])
    np.testing.assert_array_equal(task.solve(tokens), expected)
    assert task.distances(tokens)[0, [4, 8]].tolist() == [1, 7]


@pytest.mark.parametrize("queries", [None, 2, 9])
def test_rows_hold_pairs_then_queries_among_filler(queries):
    task = MQAR(pairs=4, length=32, vocab=24, queries=queries)
    rows = task.rows("train", 0, 0, 300)
    keys, values = rows.tokens[:, 0:8:2], rows.tokens[:, 1:8:2]
    assert keys.max() < 12 <= values.min()
    assert all(len(set(row)) == 8 for row in rows.tokens[:, :8])
    assert (rows.scored.sum(axis=1) == (queries or 4)).all()
    assert not rows.scored[:, :8].any() and not rows.scored[:, 1::2].any()
    for tokens, scored in zip(rows.tokens, rows.scored, strict=True):
        asked = set(tokens[scored])
        assert asked <= set(tokens[0:8:2])
        assert len(asked) == min(4, queries or 4)
        filler = tokens[8:][~scored[8:]]
        assert not set(filler) & set(tokens[:8])


def test_the_gaps_of_queries_follow_the_power_law():
    """Of one query in two slots, the first is taken with probability 1 / (1 + 2^(0.01 - 1))."""
    rows = MQAR(pairs=1, length=6, vocab=64, queries=1).rows("train", 0, 0, 4000)
    assert rows.scored[:, 2].mean() == pytest.approx(1 / (1 + 2**-0.99), abs=0.03)


def test_the_first_value_is_right_at_one_in_the_number_of_pairs():
    task = MQAR(pairs=4, length=32, vocab=64)
    rows = task.rows("test", 0, 0, 2000)
    assert trivial_accuracy(rows) == 0.25 and task.chance == 1 / 32


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (dict(pairs=17), "17 pairs and 17 queries needs a length of 68 or more; length is 64"),
        (dict(queries=29), "4 pairs and 29 queries needs a length of 66 or more; length is 64"),
        (dict(pairs=4, vocab=8), "4 pairs needs a vocab of 10 or more; vocab is 8"),
        (dict(variant="frsh"), "unknown variant of task mqar 'frsh'; did you mean 'fresh'?"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, complaint):
    with pytest.raises(UserError) as error:
        MQAR(**options)
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_the_hardest_that_can_be_is_solved():
    task = MQAR(pairs=16, length=64, vocab=34)
    rows = task.rows("test", 0, 0, 50)
    assert (task.solve(rows.tokens) == rows.targets)[rows.scored].all()


def test_distinct_numbers_are_uniform():
    drawn = distinct(np.random.default_rng(0), 6000, 2, 4)
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(pairs) == 12 and (drawn[:, 0] != drawn[:, 1]).all()
    assert counts.min() > 400 and counts.max() < 600
