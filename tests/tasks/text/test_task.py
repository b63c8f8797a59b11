"""Text as a task: windows of a prepared directory, scored by bits per byte."""

import math
from pathlib import Path

import numpy as np
import pytest

from seqarch.config import Config, DataConfig, ModelConfig
from seqarch.errors import UserError
from seqarch.tasks import make_task
from seqarch.tasks.base import Sums
from seqarch.tasks.text import loader, tokens, writer
from seqarch.tasks.text.task import WINDOWS, Text


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    content = np.random.default_rng(0).integers(97, 123, 5000, np.uint8).tobytes()
    cuts = {"train": content[:3000], "validation": content[3000:4500], "test": content[4500:]}
    made = tmp_path_factory.mktemp("task") / "text"
    writer.write(made, [(name, name, text) for name, text in cuts.items()], {}, replace=False)
    return made


def task(directory: Path, length: int = 16, vocab: int = 257) -> Text:
    config = Config(length=length, data=DataConfig(str(directory)), model=ModelConfig(vocab=vocab))
    return make_task(config)


def test_batches_are_the_loaders(directory):
    given = dict(seed=3, batch=4, start=2, process=1, processes=2)
    ours = next(task(directory).batches("train", **given))
    text = tokens.open_split(directory, "train")
    theirs = next(loader.batches(text.tokens, boundary=256, length=16, **given))
    for column, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(column, expected)


def test_validation_windows_are_spread_over_the_split(directory):
    batch, size = task(directory).validation()
    text = tokens.open_split(directory, "validation").tokens
    assert batch.tokens.shape == (WINDOWS, 16) and batch.weights.all()
    assert batch.tokens[0, 0] == 256 and batch.starts.sum() == 1
    np.testing.assert_array_equal(batch.targets[-1], text[-16:])
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert size == WINDOWS * 16  # every target is a byte


def test_a_windows_nats_are_bits_per_byte(directory):
    found = task(directory).validation_scores(Sums(8 * math.log(2) * 100, 0, 100), 100)
    assert found == {"validation_bits_per_byte": pytest.approx(8)}


def test_what_the_task_says_of_the_text(directory):
    found = task(directory)
    assert found.vocab == 257 and found.tokens_per_byte == 3001 / 3000
    meta = tokens.open_split(directory, "train").meta
    assert found.digest == meta["splits"]["train"]["sha256"]
    with pytest.raises(UserError, match="unknown split 'tset'"):
        found.open("tset")


def test_another_vocabulary_and_too_little_text_are_told(directory):
    with pytest.raises(UserError, match="model.vocab is 256, the text in .* has 257 tokens"):
        task(directory, vocab=256)
    with pytest.raises(UserError, match="fewer than the 2001 of a row"):
        task(directory, length=2000).validation()
