"""Rules that read no association: those of a slow loop, causal, and far above chance."""

from collections import Counter

import numpy as np
import pytest

from configs.probes import find_probe
from seqarch.tasks.rows import Rows
from seqarch.tasks.trivial import trivial_accuracy, trivial_answers


def random_rows() -> Rows:
    """Rows of tokens 0 to 4, of which 0 is never a target."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(5, size=(2, 40, 12))
    return Rows(tokens, targets, (rng.random(tokens.shape) < 0.3) & (targets > 0))


def test_rules_are_those_of_a_loop():
    rows = random_rows()
    known = Counter(rows.targets[rows.scored].tolist())
    constant = known.most_common(1)[0][0]
    found = trivial_answers(rows)
    assert 0 not in known and set(found) == {"constant", "first", "last", "commonest"}
    for row, tokens in enumerate(rows.tokens.tolist()):
        seen, commonest, most = [], constant, 0
        for place, token in enumerate(tokens):
            seen += [token] if token in known else []
            if seen.count(token) > most:
                commonest, most = token, seen.count(token)
            expected = dict(
                constant=constant,
                first=seen[0] if seen else constant,
                last=seen[-1] if seen else constant,
                commonest=commonest,
            )
            assert {rule: each[row, place] for rule, each in found.items()} == expected
    best = max((each == rows.targets)[rows.scored].mean() for each in found.values())
    assert trivial_accuracy(rows) == best


def test_rules_use_no_later_token():
    rows = random_rows()
    later = rows.tokens.copy()
    later[:, 6:] = (later[:, 6:] + 1) % 5
    changed = trivial_answers(rows._replace(tokens=later))
    for rule, answers in trivial_answers(rows).items():
        np.testing.assert_array_equal(answers[:, :6], changed[rule][:, :6])


@pytest.mark.parametrize(
    ("task", "rule", "expected"),
    [
        ("flipflop(ignore=0.1)", "last", 0.955),
        ("flipflop(ignore=0.98)", "first", 0.81),
        ("context_recall", "commonest", 0.32),
        ("mqar(pairs=8,length=128)", "first", 1 / 8),
    ],
)
def test_some_tasks_have_a_rule_far_above_chance(task, rule, expected):
    probe = find_probe(task)
    rows = probe.rows("test", 0, 0, 512)
    shares = {
        name: (x == rows.targets)[rows.scored].mean() for name, x in trivial_answers(rows).items()
    }
    assert trivial_accuracy(rows) == shares[rule] == pytest.approx(expected, abs=0.01)
    assert shares["constant"] == pytest.approx(probe.chance, abs=0.02)


@pytest.mark.parametrize("task", ["parity", "modular_addition", "group"])
def test_no_rule_helps_with_products_but_at_their_first_tokens(task):
    probe = find_probe(task)
    rows = probe.rows("test", 0, 0, 512)
    late = rows._replace(scored=rows.scored & (np.arange(probe.length) >= 8))
    assert trivial_accuracy(late) == pytest.approx(probe.chance, abs=0.01)
