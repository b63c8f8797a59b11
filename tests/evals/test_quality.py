"""Quality: every byte is predicted once, in either form, and the numbers mean what they say."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.config import ModelConfig
from seqarch.evals.losses import (
    Scored,
    bits_per_byte,
    carried_losses,
    loss_by_position,
    texts,
    windowed_losses,
)
from seqarch.model import LanguageModel
from seqarch.tasks.text import tokens, writer
from seqarch.tasks.text.tokenizer import BOUNDARY, BYTES, VOCAB
from tests.models import build

LENGTH = 8
SIZES = (1, 7, 8, 9, 27)  # below, at and beyond the edges of a window


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def model(mixer: str) -> LanguageModel:
    return build(ModelConfig(mixer, layers=2, dim=16, mlp=16))


def documents() -> list[Scored]:
    rng = np.random.default_rng(0)
    contents = [rng.integers(256, size=size).astype(np.int32) for size in SIZES]
    return [text_of(f"d{len(content)}", content) for content in contents]


def text_of(name: str, content: np.ndarray, sizes: np.ndarray | None = None) -> Scored:
    inputs = np.concatenate(([BOUNDARY], content[:-1])).astype(np.int32)
    return Scored(
        name, inputs, content, np.ones(len(content), np.int32) if sizes is None else sizes
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> tokens.TokenFile:
    content = [("hamlet", b"To be, or not to be"), ("macbeth", b"Is this a dagger"), ("one", b"O")]
    given = [(name, title, text) for name in tokens.SPLITS for title, text in content]
    directory: Path = tmp_path_factory.mktemp("text") / "prepared"
    writer.write(directory, given, {}, replace=False)
    return tokens.open_split(directory, "validation")


def test_texts_predict_every_byte_and_no_boundary(split):
    found = texts(split)
    assert [text.name for text in found] == ["hamlet", "macbeth", "one"]
    assert [BYTES.decode(text.targets) for text in found] == [
        b"To be, or not to be",
        b"Is this a dagger",
        b"O",
    ]
    for text in found:
        assert text.inputs[0] == BOUNDARY
        np.testing.assert_array_equal(text.inputs[1:], text.targets[:-1])


def test_limit_scores_the_beginning_of_each_document(split):
    assert [BYTES.decode(text.targets) for text in texts(split, 4)] == [b"To b", b"Is t", b"O"]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_windows_predict_every_byte_once(monkeypatch, batch):
    """Targets are numbered through all documents, and a target's loss is its number: none is lost,
    doubled or moved.
    """
    monkeypatch.setattr(
        "seqarch.evals.losses.token_losses",
        lambda model, batch: batch.targets.astype(jnp.float32),
    )
    numbers = np.split(np.arange(sum(SIZES), dtype=np.int32), np.cumsum(SIZES)[:-1])
    found = [text._replace(targets=n) for text, n in zip(documents(), numbers, strict=True)]
    losses = windowed_losses(None, found, LENGTH, batch, quiet)
    for part, n in zip(losses, numbers, strict=True):
        np.testing.assert_array_equal(part, n)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mixer", ["gru,attention(window=4)", "mamba", "linear_attention,attention"]
)
def test_carried_form_is_one_long_call(mixer):
    """Of the training form, on each document alone; documents of different lengths, more than there
    are rows.
    """
    whole, found = model(mixer), documents()
    carried = carried_losses(whole.unstack(), found, LENGTH, 3, quiet)
    longest = windowed_losses(whole, found, max(SIZES), len(SIZES), quiet)
    for ours, theirs in zip(carried, longest, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_windows_forget_and_the_carried_form_remembers():
    """They agree in the first window of a document and differ behind it."""
    whole, found = model("gru,attention(window=4)"), documents()
    windowed = windowed_losses(whole, found, LENGTH, 3, quiet)
    carried = carried_losses(whole.unstack(), found, LENGTH, 3, quiet)
    for a, b in zip(windowed, carried, strict=True):
        np.testing.assert_allclose(a[:LENGTH], b[:LENGTH], atol=1e-4)
        assert len(a) <= LENGTH or np.abs(a[LENGTH:] - b[LENGTH:]).max() > 1e-3


def test_model_that_knows_nothing_scores_its_vocabulary():
    """With all parameters 0 the logits are equal: log2(257) bits, at every position and for every
    document.
    """
    ignorant = jax.tree.map(jnp.zeros_like, model("linear_attention,attention"))
    losses = windowed_losses(ignorant, documents(), LENGTH, 4, quiet)
    assert bits_per_byte(losses, documents()) == pytest.approx(math.log2(VOCAB), rel=1e-6)
    assert loss_by_position(losses, documents(), LENGTH) == pytest.approx(
        [math.log2(VOCAB)] * LENGTH, rel=1e-6
    )


def test_bits_weigh_bytes_equally():
    """And a token's bits are those of all its bytes."""
    losses = [np.full(1, math.log(2) * 9), np.full(3, math.log(2) * 1)]
    texts = [text_of("a", np.zeros(1, np.int32)), text_of("b", np.zeros(3, np.int32))]
    assert bits_per_byte(losses, texts) == pytest.approx(12 / 4)
    texts[1] = texts[1]._replace(sizes=np.array([1, 5, 0]))
    assert bits_per_byte(losses, texts) == pytest.approx(12 / 7)


def test_loss_by_position_is_the_mean_over_windows():
    """5 bytes in windows of 2: positions are met 3 and 2 times."""
    bits = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    text = text_of("a", np.zeros(5, np.int32))
    assert loss_by_position([bits * math.log(2)], [text], 2) == pytest.approx(
        [(1 + 3 + 5) / 3, (2 + 4) / 2]
    )
    sized = text._replace(sizes=np.array([2, 1, 2, 4, 2]))
    assert loss_by_position([bits * math.log(2)], [sized], 2) == pytest.approx(
        [(1 + 3 + 5) / 6, (2 + 4) / 5]
    )


def test_positions_that_no_document_reaches_have_no_loss():
    assert len(loss_by_position([np.ones(3)], [text_of("a", np.zeros(3, np.int32))], LENGTH)) == 3
