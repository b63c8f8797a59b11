"""Probes against their sources: rows by hand, and what the sources say of all rows."""

import dataclasses
import itertools

import numpy as np
import pytest

from configs.probes import find_probe
from seqarch.tasks.arithmetic import SYMBOLS
from seqarch.tasks.draws import first, occurrences, one_of, previous
from seqarch.tasks.epochs import order, training_rows
from seqarch.tasks.group import GROUPS, table
from seqarch.tasks.mqar import TRAINING_ROWS

COUNT = 500


@pytest.mark.parametrize(
    ("task", "tokens", "answers", "distances"),
    [
        # keys 0 and 1, values 2 and 3, query 5
        ("recall(length=6,vocab=6)", [0, 2, 1, 3, 5, 1], {5: 3}, [2]),
        # trigger 3
        ("induction(length=6,vocab=4)", [0, 3, 1, 2, 0, 3], {5: 1}, [3]),
        # w1 i0 r1 w0 r0
        ("flipflop(length=10)", [2, 1, 4, 0, 3, 1, 2, 0, 3, 0], {4: 1, 8: 0}, [3, 1]),
        # keys 0 and 1, values 2 and 3
        ("context_recall(length=8,vocab=4)", [0, 2, 1, 3, 0, 2, 0, 2], {4: 2, 6: 2}, [3, 1]),
        # and noise 4 to 7
        ("noisy_recall(length=6,vocab=8,noise_vocab=4)", [0, 2, 4, 4, 0, 2], {4: 2}, [3]),
        # key 0 1 with value 3 4, key 0 with value 5, padding 6
        (
            "fuzzy_recall(length=12,vocab=7)",
            [6, 0, 1, 3, 4, 0, 5, 0, 1, 3, 4, 0],
            {8: 3, 9: 4, 11: 5},
            None,
        ),
        # letters 0 to 2, blank 3, marker 4
        ("selective_copy(length=6,vocab=5,copied=2)", [3, 0, 3, 1, 4, 4], {4: 0, 5: 1}, [3, 2]),
        (
            "selective_copy(length=7,vocab=5,copied=2,variant=mad)",
            [3, 0, 3, 1, 4, 3, 3],
            {5: 0, 6: 1},
            [4, 3],
        ),
        # letters 0 to 2, start 3, bar 4, padding 5
        ("copy(length=7,vocab=6)", [3, 0, 1, 4, 0, 5, 5], {3: 0, 4: 1}, [2, 2]),
        ("parity(length=4)", [1, 0, 1, 1], {0: 1, 1: 1, 2: 0, 3: 1}, [0, 1, 2, 3]),
        ("modular_addition(length=4)", [3, 4, 1, 0], {0: 3, 1: 2, 2: 3, 3: 3}, [0, 1, 2, 3]),
        # (0 1) is 2 and (1 2) is 1: both together are a turn, and twice each nothing
        ("group(length=4)", [2, 1, 1, 2], {0: 2, 1: 3, 2: 2, 3: 0}, [0, 1, 2, 3]),
        # the examples of the source: 1 + 2 * 3 = 2, 0 * 1 + 4 * 3 - 2 = 0
        ("arithmetic(length=8)", [1, 5, 2, 7, 3, 10, 11, 11], {5: 2}, [5]),
        ("arithmetic(length=10)", [0, 7, 1, 5, 4, 7, 3, 6, 2, 10], {9: 0}, [9]),
        # (1 - (2 - (-3))) = 1
        (
            "arithmetic(length=14,brackets=True)",
            [8, 1, 6, 8, 2, 6, 8, 6, 3, 9, 9, 9, 10, 11],
            {12: 1},
            [12],
        ),
        # letters 0 to 2, padding 3, end and start 4
        (
            "reverse(length=8,letters=3)",
            [0, 1, 2, 4, 4, 2, 1, 3],
            {4: 2, 5: 1, 6: 0},
            [2, 4, 6],
        ),
        (
            "sort(length=8,letters=3)",
            [2, 0, 2, 4, 4, 0, 2, 3],
            {3: -1, 4: 0, 5: 2, 6: 2, 7: -1},
            None,
        ),
        # ((1 + 0) * 1)
        (
            "postfix(length=15,numbers=2)",
            [5, 5, 1, 2, 0, 6, 4, 1, 6, 8, 8, 1, 0, 2, 1],
            {9: -1, 10: 1, 11: 0, 12: 2, 13: 1, 14: 4},
            None,
        ),
    ],
)
def test_a_row_by_hand(task, tokens, answers, distances):
    probe, row = find_probe(task), np.array([tokens])
    places = list(answers)
    assert probe.solve(row)[0, places].tolist() == list(answers.values())
    if distances is not None:
        assert probe.distances(row)[0, places].tolist() == distances


@pytest.mark.parametrize("brackets", [False, True])
def test_values_of_expressions_are_those_of_python(brackets):
    probe = find_probe(f"arithmetic(length=40,brackets={brackets})")
    rows, text = probe.rows("train", 0, 0, COUNT), "01234+-*()"
    lengths = set()
    for tokens, targets, scored in zip(*rows, strict=True):
        (end,) = np.flatnonzero(scored)
        assert probe.solve(tokens[None])[0, end] == targets[end]
        assert eval("".join(text[token] for token in tokens[:end])) % 5 == targets[end]
        assert (tokens[end + 1 :] == 4 + len(SYMBOLS)).all()
        lengths.add(int(end))
    assert lengths == set(range(1, 40, 1 if brackets else 2))


def test_postfix_is_that_of_its_expression():
    probe, text = find_probe("postfix"), "0123456789+-*()"
    counts = set()
    for tokens, targets, scored in zip(*probe.rows("train", 0, 0, COUNT), strict=True):
        stack = []
        for symbol in targets[scored]:
            if symbol < 10:
                stack.append(text[symbol])
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(f"({left}{text[symbol]}{right})")
        end = int((tokens == probe.vocab - 1).argmax())
        assert stack == ["".join(text[token] for token in tokens[:end])]
        counts.add(int(scored.sum()))
    assert counts == set(range(1, 22, 2))


@pytest.mark.parametrize("task", ["reverse", "sort", "postfix"])
def test_an_encoder_decoder_reads_the_row_in_two_parts(task):
    probe = find_probe(task)
    rows = probe.rows("test", 0, 0, 50)
    batch = dataclasses.replace(probe, split=True).as_batch(rows)
    columns, padding = probe.source_columns, probe.vocab - 2
    np.testing.assert_array_equal(batch.tokens, rows.tokens[:, columns:])
    source = rows.tokens[:, :columns]
    np.testing.assert_array_equal(batch.source, np.where(source == padding, -1, source))
    places = np.arange(probe.target_columns) if batch.positions is None else batch.positions
    there = np.broadcast_to(places, batch.weights.shape) + columns
    for ours, theirs in ((batch.weights, rows.scored), (batch.targets, rows.targets)):
        np.testing.assert_array_equal(ours, np.take_along_axis(theirs, there, axis=1))
    assert batch.weights.sum() == rows.scored.sum()


def test_groups_are_groups():
    sizes = {"S3": 6, "A5": 60, "S5": 120, "Z60": 60}
    assert set(sizes) == set(GROUPS)
    for name, size in sizes.items():
        product = table(name)
        every = np.arange(size)
        assert product.shape == (size, size)
        assert (product[0] == every).all() and (product[:, 0] == every).all()
        assert (np.sort(product, axis=1) == every).all()
        assert (product[product] == product[:, product]).all()  # (ab)c = a(bc)
        assert (product == product.T).all() == (name == "Z60")


def test_the_cyclic_group_is_modular_addition():
    group, addition = find_probe("group(name=Z60)"), find_probe("modular_addition(modulus=60)")
    for ours, theirs in zip(group.rows("test", 0, 0, 9), addition.rows("test", 0, 0, 9)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ignore", [0.98, 0.8, 0.1])
def test_flipflop_has_the_shares_of_its_instructions(ignore):
    probe = find_probe(f"flipflop(ignore={ignore})")
    instructions = probe.rows("train", 0, 0, COUNT).tokens[:, ::2]
    assert (instructions[:, 0] == 2).all() and (instructions[:, -1] == 3).all()
    shares = [(instructions[:, 1:-1] == token).mean() for token in (2, 3, 4)]
    assert shares == pytest.approx([(1 - ignore) / 2, (1 - ignore) / 2, ignore], abs=0.01)


def test_noise_has_its_share():
    tokens = find_probe("noisy_recall(noise=0.4)").rows("train", 0, 0, COUNT).tokens
    noisy = tokens >= 16
    assert (noisy[:, ::2] == noisy[:, 1::2]).all()
    assert noisy.mean() == pytest.approx(0.4 * 62 / 64, abs=0.01)


def test_facts_are_the_same_in_every_row_and_each_has_its_value():
    probe = find_probe("memorise")
    rows = probe.rows("train", 0, 0, COUNT), probe.rows("test", 9, 9, COUNT)
    facts = [
        set(zip(each.tokens[:, ::2].ravel(), each.targets[:, 1::2].ravel(), strict=True))
        for each in rows
    ]
    assert facts[0] == facts[1]
    assert [len(set(column)) for column in zip(*facts[0], strict=True)] == [127, 127]
    assert probe.chance == 1 / 127


@pytest.mark.parametrize("vocab", [5, 6, 7])
def test_chance_of_facts_is_that_of_a_constant_answer(vocab):
    probe = find_probe(f"memorise(vocab={vocab})")
    targets = probe.rows("test", 0, 0, COUNT).targets[:, 1::2]
    shares = np.unique(targets, return_counts=True)[1] / targets.size
    assert shares == pytest.approx(np.full(len(shares), probe.chance), abs=0.03)


def test_tokens_to_copy_stand_where_the_variants_say():
    mamba = find_probe("selective_copy").rows("train", 0, 0, 2000).tokens[:, :240] < 14
    assert (mamba.sum(axis=1) == 16).all()
    assert mamba.mean(axis=0) == pytest.approx(np.full(240, 16 / 240), abs=0.03)
    mad = find_probe("selective_copy(variant=mad)").rows("train", 0, 0, 2000).tokens
    assert (mad[:, 239] == 15).all() and (mad[:, 238] < 14).all() and (mad[:, 240:] == 14).all()


def test_keys_of_fuzzy_recall_are_of_different_tokens_and_have_one_value():
    probe = find_probe("fuzzy_recall(vocab=9)")
    for row in probe.rows("train", 0, 0, 50).tokens.tolist():
        value_of = {}
        kinds = itertools.groupby((t for t in row if t < 8), key=lambda token: token < 4)
        motifs = [tuple(tokens) for _, tokens in kinds]
        assert all(len(set(motif)) == len(motif) <= 3 for motif in motifs)
        for key, value in zip(motifs[::2], motifs[1::2], strict=True):
            assert value_of.setdefault(key, value) == value
        assert motifs[-2] in motifs[:-2:2]


def test_zoology_trains_on_the_same_rows_in_every_epoch():
    probe = find_probe("mqar(variant=zoology,length=16,pairs=2,vocab=64)")
    known = training_rows(probe)
    epochs = [probe.rows("train", 5, index, TRAINING_ROWS).tokens for index in range(2)]
    assert (epochs[0] != epochs[1]).any()
    for tokens, epoch in zip(epochs, range(2), strict=True):
        np.testing.assert_array_equal(tokens, known.tokens[order(5, epoch, TRAINING_ROWS)])
    across = probe.rows("train", 5, 1, 70_000).tokens  # rows 70,000 to 140,000
    np.testing.assert_array_equal(across[:30_000], epochs[0][70_000:])
    np.testing.assert_array_equal(across[30_000:], epochs[1][:40_000])


@pytest.mark.parametrize(
    "task", ("context_recall", "noisy_recall", "fuzzy_recall", "memorise", "selective_copy")
)
def test_a_task_of_mad_may_train_on_fixed_rows(task):
    probe = find_probe(f"{task}(training_rows=12)")
    first, second = (probe.rows("train", 3, index, 12).tokens for index in range(2))
    assert (first != second).any()
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))
    other = find_probe(f"{task}(training_rows=12)").rows("train", 4, 0, 12).tokens
    assert sorted(map(tuple, other.tolist())) == sorted(map(tuple, first.tolist()))


def test_zoology_has_filler_0_and_asks_for_the_first_key_first_drawn():
    probe = find_probe("mqar(variant=zoology,length=16,pairs=2,vocab=8)")
    rows = probe.rows("test", 0, 0, 2000)
    assert rows.tokens[:, 0:4:2].min() == 1  # token 0 is no key
    assert (rows.scored.sum(axis=1) == 2).all()
    assert (rows.tokens[:, 4:][~rows.scored[:, 4:]] == 0).all()
    places = [(rows.tokens == rows.tokens[:, [k]]) & rows.scored for k in (0, 2)]
    early, late = (each.argmax(axis=1).mean() for each in places)
    assert early < late - 0.5


def test_previous_first_and_occurrences_of_equal_symbols():
    symbols = np.array([[3, 1, 3, 3, 2, 1]])
    assert previous(symbols).tolist() == [[-1, -1, 0, 2, -1, 1]]
    assert first(symbols).tolist() == [[0, 1, 0, 0, 4, 1]]
    assert occurrences(symbols).tolist() == [[1, 1, 2, 3, 1, 2]]


def test_one_of_the_different_symbols_is_equally_likely():
    symbols = np.tile([2, 2, 2, 0, 7], (4000, 1))
    drawn = one_of(np.random.default_rng(0), symbols, 4)
    assert set(drawn.tolist()) == {0, 2}
    assert (drawn == 0).mean() == pytest.approx(0.5, abs=0.05)
