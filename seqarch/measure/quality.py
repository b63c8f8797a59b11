"""How well a model predicts held-out documents: bits per byte, each byte predicted exactly once.

The same question in two forms, each answered by nats for every byte of every document:
    windowed_losses   the model forgets after every `length` tokens, as in training
    carried_losses    its state is carried through the whole document, which is what a state is for
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.data.loader import Batch
from seqarch.data.tokens import BOUNDARY, TokenFile
from seqarch.measure.memory import state_size
from seqarch.measure.subject import Subject
from seqarch.model import LanguageModel
from seqarch.training.state import token_losses
from seqarch.types import Array, Float, Int, State


NAMED = 64  # documents, up to which each has its own score


class Text(NamedTuple):
    """What is scored of one document: the tokens that the model reads, and the bytes that follow them."""

    name: str
    inputs: Int[np.ndarray, "n"]
    targets: Int[np.ndarray, "n"]


Losses = list[Float[np.ndarray, "n"]]  # for each text, nats of each of its bytes
Progress = Callable[[int, int], None]  # bytes scored, of how many


def texts(split: TokenFile, limit: int = 0) -> list[Text]:
    """The documents of a split. The first byte is predicted from BOUNDARY; the next boundary is not predicted.

    limit: bytes of each document that are scored, from its beginning; 0 for all
    """
    found = []
    for document in split.documents:
        content = split.read(document, limit).astype(np.int32)
        found.append(Text(document.name, np.concatenate(([BOUNDARY], content[:-1]), dtype=np.int32), content))
    return found


def windowed_losses(model: LanguageModel, texts: Sequence[Text], length: int, batch: int, progress: Progress) -> Losses:
    """Windows do not overlap: the k-th of a text reads its tokens [k length, (k+1) length). `batch` rows at a time."""
    rows = [_cut(text, length) for text in texts]
    windows = Batch(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
    score = jax.jit(token_losses)
    losses = np.zeros(windows.tokens.shape, np.float32)
    for start in range(0, len(losses), batch):
        part = jax.tree.map(lambda x: _pad(x[start : start + batch], batch), windows)  # noqa: B023
        losses[start : start + batch] = np.asarray(score(model, part))[: len(losses) - start]
        progress(int(windows.weights[: start + batch].sum()), int(windows.weights.sum()))
    bounds = np.cumsum([len(row.tokens) for row in rows])[:-1]
    return [part.ravel()[: len(text.targets)] for part, text in zip(np.split(losses, bounds), texts, strict=True)]


def carried_losses(model: LanguageModel, texts: Sequence[Text], length: int, batch: int, progress: Progress) -> Losses:
    """A text is a row, `batch` rows at a time; a row reads `length` tokens, then from the state that they left.

    model: unstacked. States are made for the longest text, so memory grows with it where a state is a cache.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].targets))  # alike in length, so rows end together
    rows, max_len = min(batch, len(texts)), len(texts[order[0]].targets)
    losses, done, total = {}, 0, sum(len(text.targets) for text in texts)
    for start in range(0, len(texts), rows):
        group = [texts[i] for i in order[start : start + rows]]
        sizes = np.array([len(text.targets) for text in group] + [0] * (rows - len(group)))
        states, parts = jax.tree.map(jnp.copy, model.init_state(rows, max_len)), []  # copies: they are donated
        for first in range(0, sizes.max(), length):
            inputs, targets = (_segment([text[field] for text in group], rows, first, length) for field in (1, 2))
            lengths = np.clip(sizes - first, 0, length)
            part, states = _score_segment(model, inputs, targets, lengths, states)
            parts.append(np.asarray(part))
            done += int(lengths.sum())
            progress(done, total)
        whole = np.concatenate(parts, axis=1)
        losses |= {order[start + i]: whole[i, :size] for i, size in enumerate(sizes[: len(group)])}
    return [losses[i] for i in range(len(texts))]


def bits_per_byte(losses: Losses) -> float:
    """Over all bytes, so that a long document weighs more."""
    return float(sum(part.sum(dtype=np.float64) for part in losses) / sum(map(len, losses)) / math.log(2))


def loss_by_position(losses: Losses, length: int) -> list[float]:
    """Mean bits of the bytes predicted after 1, 2, ... tokens of a window; as far as the longest text reaches."""
    total, count = np.zeros(length), np.zeros(length)
    for part in losses:
        rows = _pad(part.astype(np.float64), -len(part) % length + len(part)).reshape(-1, length)
        total += rows.sum(axis=0)
        count += (np.arange(rows.size) < len(part)).reshape(-1, length).sum(axis=0)
    filled = count > 0
    return (total[filled] / count[filled] / math.log(2)).tolist()


def evaluate(subject: Subject) -> Iterator[tuple[str, Any]]:
    """quality/*: of the subject's split, over windows and with the state carried over whole documents."""
    config, found = subject.config, texts(subject.split, subject.config.eval.limit)
    length, batch = config.length, config.eval.batch
    windowed = windowed_losses(subject.model, found, length, batch, subject.counter("bytes over windows"))
    yield "quality/split", subject.split.split
    yield "quality/bytes", sum(map(len, windowed))
    yield "quality/context", length
    yield "quality/bits_per_byte", bits_per_byte(windowed)
    if len(found) <= NAMED:
        by_document = {text.name: bits_per_byte([part]) for text, part in zip(found, windowed, strict=True)}
        yield "quality/by_document", by_document
        yield "quality/bytes_by_document", {text.name: len(text.targets) for text in found}
    yield "quality/loss_by_position", loss_by_position(windowed, length)
    carried = carried_losses(subject.serving, found, length, batch, subject.counter("bytes with the state carried"))
    yield "quality/bits_per_byte_carried", bits_per_byte(carried)
    longest = max(map(len, carried))
    yield "quality/carried_context", longest
    yield "quality/carried_state_bytes", state_size(subject.serving, longest).bytes


@jax.jit(donate_argnames="states")
def _score_segment(
    model: LanguageModel,
    inputs: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    states: tuple[State, ...],
) -> tuple[Float[Array, "B T"], tuple[State, ...]]:
    """Nats of the first `lengths` targets of each row, what stands behind them being of no meaning; and the states."""
    hidden, states = model.prefill(inputs, states, starts=inputs == BOUNDARY, lengths=lengths)
    logits = model.logits(hidden)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target, states


def _cut(text: Text, length: int) -> Batch:
    """The windows of one text; the last one is filled up with tokens of weight 0."""
    size = len(text.targets)
    shape = math.ceil(size / length), length
    inputs, targets = (_pad(tokens, math.prod(shape)).reshape(shape) for tokens in (text.inputs, text.targets))
    weights = (np.arange(math.prod(shape)) < size).astype(np.float32).reshape(shape)
    return Batch(inputs, targets, inputs == BOUNDARY, weights)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the first axis, up to `size`."""
    return np.concatenate((rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)))


def _segment(rows: Sequence[np.ndarray], count: int, first: int, length: int) -> Int[np.ndarray, "B T"]:
    """`length` tokens of each row from `first` on, zeros where a row has ended, and rows of zeros up to `count`."""
    return _pad(np.stack([_pad(row[first : first + length], length) for row in rows]), count)
