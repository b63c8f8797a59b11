"""The evaluator of probes: right values of a model whose answers are known."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from seqarch.config import Config, EvalConfig, ModelConfig
from seqarch.errors import UserError
from seqarch.evals import accuracy, answers
from seqarch.evals.evaluate import choose
from seqarch.records import Record
from seqarch.tasks.copy import Copy
from seqarch.tasks.memorise import Memorise
from seqarch.tasks.mqar import MQAR
from seqarch.tasks.parity import Parity

ROWS = 30


def knows_first_pairs(count: int):
    """In place of `token_scores`: a model that recalls the first `count` pairs alone."""

    def scores(_, batch):
        answers = jnp.full(batch.tokens.shape, -1)
        for pair in range(count):
            asked = batch.tokens == batch.tokens[:, 2 * pair, None]
            answers = jnp.where(asked, batch.tokens[:, 2 * pair + 1, None], answers)
        answers = jnp.take_along_axis(answers, batch.positions, axis=1)
        return jnp.zeros(answers.shape), answers == batch.targets

    return scores


def measure(monkeypatch, count: int, **options) -> list[Record]:
    monkeypatch.setattr(answers, "token_scores", knows_first_pairs(count))
    task = MQAR(pairs=4, length=32, vocab=32)
    run = types.SimpleNamespace(
        config=Config(task="mqar", eval=EvalConfig(batch=16)),
        model=None,
        task=task,
        split=task.open("test"),
        counter=lambda what: lambda done, of: None,
    )
    found = accuracy.evaluate(run, rows=ROWS, **options)
    return [each for each in found if isinstance(each, Record)]


def test_a_model_that_knows_one_pair_of_four_has_a_quarter(monkeypatch):
    found = measure(monkeypatch, 1, lengths=(64,), sizes=(1, 2))
    assert all(accuracy.EVALUATOR.metric(each.metric).covers(each.at) for each in found)
    values = {(each.metric, *each.at.values()): (each.value, each.n) for each in found}
    assert values["accuracy",] == (0.25, 4 * ROWS) and values["exact",] == (0.0, ROWS)
    right, count = values["length_accuracy", 64]
    assert 0 < count < 4 * ROWS and right == pytest.approx(0.25, abs=0.1)  # beyond 32 tokens
    assert values["size_accuracy", 1] == (1.0, ROWS)
    assert values["size_accuracy", 2] == (0.5, 2 * ROWS)
    assert values["solved",][0] == 0.99 and values["chance",][0] == 1 / 16


def test_the_best_trivial_rule_stands_beside_every_accuracy(monkeypatch):
    """Of MQAR one rule answers with the first value, as a model does that knows the first pair."""
    found = measure(monkeypatch, 1, lengths=(16, 64), sizes=(1, 2))
    values = {(each.metric, *each.at.items()): (each.value, each.n) for each in found}
    for metric, *at in list(values):
        if metric in ("accuracy", "length_accuracy", "size_accuracy"):
            trivial = metric.replace("accuracy", "trivial_accuracy")
            assert values[trivial, *at][0] >= values[metric, *at][0] > 0
            assert values[trivial, *at][1] == values[metric, *at][1]
    assert values["trivial_accuracy",] == (0.25, 4 * ROWS)
    assert len([metric for metric, *_ in values if "trivial" in metric]) == 5
    (table,) = (each for each in accuracy.EVALUATOR.tables if each.title == "Accuracy by length")
    assert table.metrics == ("length_accuracy", "length_trivial_accuracy")


def test_distances_are_in_bins_with_their_counts(monkeypatch):
    """The first pair's value stands at 1, the first query at 8: it is 7 tokens away or more."""
    found = measure(monkeypatch, 1)
    bins = {each.at["distance"]: each for each in found if each.metric == "distance_accuracy"}
    assert set(bins) <= {1, 2, 4, 8, 16, 32} and sum(each.n for each in bins.values()) == 4 * ROWS
    assert all(bins[distance].value == 0 for distance in (1, 2, 4) if distance in bins)
    assert sum(each.value * each.n for each in bins.values()) == pytest.approx(ROWS)


def test_a_model_that_knows_all_solves_every_row(monkeypatch):
    found = {each.metric: each.value for each in measure(monkeypatch, 4)}
    assert found["accuracy"] == found["exact"] == found["distance_accuracy"] == 1.0


def test_a_size_that_cannot_be_is_told_before_anything_is_measured(monkeypatch):
    with pytest.raises(UserError, match="mqar with 20 pairs"):
        measure(monkeypatch, 1, sizes=(20,))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (MQAR(pairs=1), "Held-out rows are disjoint from training."),
        (Parity(), "disjoint from training, but for those at length 8, which are too few."),
        (Parity(length=12), "not disjoint from training: the task has a fixed table, or too few"),
        (Memorise(), "not disjoint from training"),
        (Copy(length=32), "for kinds of which there are fewer than 2^14 different rows"),
        (Copy(length=32, vocab=20), "in every split and for those at length 8, which are"),
    ],
)
def test_captions_say_whether_rows_are_held_out(task, expected):
    longer = {length: dataclasses.replace(task, length=length) for length in (8, 128)}
    shared = task.in_every_split(task.rows("test", 0, 0, 512).tokens).mean()
    assert expected in accuracy.held_out(task, shared, longer, {})
    assert all("held_out" in table.facts for table in accuracy.EVALUATOR.tables)


@pytest.mark.parametrize(
    ("task", "share"),
    [(MQAR(), 0), (Parity(length=12), 1), (Memorise(), 1), (Copy(length=32), 0.139)],
)
def test_rows_of_every_split_are_counted(task, share):
    rows = task.rows("test", 0, 0, 512)
    assert task.in_every_split(rows.tokens).mean() == pytest.approx(share, abs=5e-4)


def test_evaluators_refuse_the_other_kind_of_task_in_one_line():
    text = Config()
    probe = Config(task="mqar", length=64, model=ModelConfig(vocab=256))
    for config, name in ((text, "accuracy"), (probe, "quality"), (probe, "context")):
        with pytest.raises(UserError, match=f"the evaluator {name} measures") as error:
            choose(config, [name])
        assert "\n" not in str(error.value)
    assert choose(probe) == ("accuracy", "flops", "speed", "memory")
