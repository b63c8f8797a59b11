"""Span corruption: source and target give the text back, as T5 counts its spans."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import seq2seq
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.tasks import make_task
from seqarch.tasks.sources import SpanSource
from seqarch.tasks.text import tokens, writer
from seqarch.tasks.text.span_corruption import SENTINELS, SpanCorruption
from seqarch.tasks.text.tokenizer import Tokenizer

BOUNDARY = 256 + SENTINELS  # of the model


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    content = np.random.default_rng(0).integers(97, 123, 9000, np.uint8).tobytes()
    cuts = {"train": content[:6000], "validation": content[6000:], "test": content[3000:6000]}
    made = tmp_path_factory.mktemp("spans") / "text"
    writer.write(made, [(name, name, text) for name, text in cuts.items()], {}, replace=False)
    return made


def task(directory: Path, length: int = 66, **options) -> SpanCorruption:
    return SpanCorruption(directory, length, split=True, **options)


def coder(directory: Path) -> Tokenizer:
    return tokens.open_split(directory, "train").tokenizer


def restored(source: np.ndarray, target: np.ndarray) -> list[int]:
    """Returns the text of a row, each sentinel replaced by the span behind it in the target."""
    spans, text = {}, []
    for token in target.tolist():
        if 256 <= token < BOUNDARY:
            spans[last := token] = []
        else:
            spans[last].append(token)
    assert list(spans) == list(range(256, 256 + len(spans))) and spans.pop(last) == []
    assert source[-1] == BOUNDARY
    for token in source[:-1].tolist():
        text += spans.pop(token) if 256 <= token < BOUNDARY else [token]
    assert not spans
    return text


def test_source_and_target_give_the_text_back(directory):
    found = task(directory)
    counts, (sources, targets) = found.counts, found.columns
    assert (counts.missing, counts.spans) == (round(0.15 * counts.tokens), 3)
    text = tokens.open_split(directory, "validation").tokens
    batch = found.windows("validation", 9)
    starts = np.linspace(0, len(text) - counts.tokens, 9).astype(int)
    assert batch.source.shape == (9, sources) and batch.tokens.shape == (9, targets)
    for row in range(9):
        source = batch.source[row][batch.source[row] >= 0]
        target = batch.targets[row][batch.weights[row] > 0]
        assert (len(source), len(target)) == (counts.source, counts.target)
        given = text[starts[row] : starts[row] + counts.tokens].astype(int)
        assert restored(source, target) == np.where(given == 256, BOUNDARY, given).tolist()
        assert batch.tokens[row, 0] == BOUNDARY
        assert (batch.tokens[row, 1 : len(target)] == target[:-1]).all()


def test_counts_are_those_of_t5(directory):
    found = task(directory, 512 + 114)
    assert found.columns == (512, 114)
    assert (
        found.counts == (568, 85, 28)
        and (found.counts.source, found.counts.target) == found.columns
    )


def test_spans_are_equally_likely(directory):
    """Of 12 tokens 4 are missing in 2 spans: 7 ways to cut what is there, and 3 what is not."""
    found = dataclasses.replace(task(directory, 22, rate=0.35, span=2.0))
    tokens, missing, spans = found.counts
    drawn = found.draw(np.random.default_rng(0), 4000)
    assert (drawn.sum(axis=1) == missing).all() and not drawn[:, 0].any()
    kinds, shares = np.unique(drawn, axis=0, return_counts=True)
    assert spans == 2 and len(kinds) == (tokens - missing - 1) * (missing - 1)
    assert shares / 4000 == pytest.approx(np.full(len(kinds), 1 / len(kinds)), abs=0.02)


def test_batches_are_a_function_of_seed_and_index_and_are_shared_by_processes(directory):
    found = task(directory)
    stream = found.batches("train", seed=1, batch=4)
    whole = [next(stream) for _ in range(3)][2]
    parts = [
        next(found.batches("train", seed=1, batch=4, start=2, process=i, processes=2))
        for i in range(2)
    ]
    joined = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    other = next(found.batches("train", seed=2, batch=4, start=2))
    assert (other.source != whole.source).any()


def test_the_config_and_its_mistakes(directory):
    given = seq2seq.get_config("span_corruption,gru")
    given.data.path = str(directory)
    found = make_task(parse(given))
    assert found.vocab == given.model.vocab and found.columns == (225, 50)
    assert found.digest != dataclasses.replace(found, rate=0.2).digest
    for text, change, length, complaint in (
        ("", dict(kind="lm", encoder=""), 275, "is for encoder-decoders, and model.kind is 'lm'"),
        ("", dict(vocab=257), 275, "set --config.model.vocab=357"),
        ("(rate=1.5)", {}, 275, "give a rate in (0, 1) and a span of at least 1"),
        ("(rate=0.01)", {}, 44, "has no span in a row of"),
        ("(rate=0.5,span=1.0)", {}, 626, "spans in a row of 626 tokens, and there are 100"),
        ("(spam=3)", {}, 275, "did you mean 'span'?"),
    ):
        tree = given.to_dict() | dict(task=f"span_corruption{text}", length=length)
        tree["model"] |= change
        with pytest.raises(UserError) as error:
            make_task(parse(tree))
        assert complaint in str(error.value) and "\n" not in str(error.value)


def test_a_source_is_read_from_a_prompt_and_a_target_is_written_with_its_marks(directory):
    sources = SpanSource(task(directory), coder(directory))
    asked = sources.read(b"Thank you <0> to your party <1>.")
    text = [*b"Thank you ", 256, *b" to your party ", 257, *b".", BOUNDARY]
    assert asked.source.tolist() == text and asked.stop == 258
    assert sources.write(asked.source) == b"Thank you <0> to your party <1>."
    assert (
        sources.write(np.array([256, *b"for inviting", 257, *b"last"])) == b"<0>for inviting<1>last"
    )
    drawn = sources.draw(0)
    assert sources.read(sources.write(drawn.source)).source.tolist() == drawn.source.tolist()
    assert drawn.stop == 256 + task(directory).counts.spans


@pytest.mark.parametrize(
    "prompt, found",
    [(b"to be", "none"), (b"<1> be <0>", "<1>, <0>"), (b"<%s>" % (b"9" * 5000), "none")],
)
def test_a_prompt_without_marks_in_order_is_refused(prompt, found, directory):
    with pytest.raises(UserError, match=f"as missing spans: {found}; mark each, from <0> on"):
        SpanSource(task(directory), coder(directory)).read(prompt)
