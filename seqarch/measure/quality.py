"""How well a model predicts held-out documents: bits per byte, each byte predicted exactly once.

    bits per byte = nats of all tokens / bytes of all tokens / ln 2

so that it compares across tokenizers; where tokens are bytes, it is bits per token. The same question in two forms, each
answered by nats for every token of every document:
    windowed_losses   the model forgets after every `length` tokens, as in training
    carried_losses    its state is carried through the whole document, which is what a state is for
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.data.loader import Batch
from seqarch.data.tokens import TokenFile
from seqarch.measure.memory import state_size
from seqarch.measure.subject import Subject
from seqarch.model import LanguageModel
from seqarch.training.state import token_losses
from seqarch.types import Array, Float, Int, State

NAMED = 64  # documents, up to which each has its own score


class Text(NamedTuple):
    """What is scored of one document: the tokens that the model reads, those that follow them, and the bytes of these."""

    name: str
    inputs: Int[np.ndarray, "n"]
    targets: Int[np.ndarray, "n"]
    sizes: Int[np.ndarray, "n"]


Losses = list[Float[np.ndarray, "n"]]  # for each text, nats of each of its tokens
Progress = Callable[[int, int], None]  # tokens scored, of how many


def texts(split: TokenFile, limit: int = 0) -> list[Text]:
    """The documents of a split. The first token is predicted from the boundary; the next boundary is not predicted.

    limit: bytes of each document that are scored, from its beginning, as far as whole tokens go; 0 for all
    """
    found = []
    for document in split.documents:
        content = split.read_tokens(document, limit)
        inputs = np.concatenate(([split.boundary], content[:-1]), dtype=np.int32)
        found.append(Text(document.name, inputs, content, split.tokenizer.sizes[content]))
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


def bits_per_byte(losses: Losses, texts: Sequence[Text]) -> float:
    """Over all bytes, so that a long document weighs more."""
    nats = sum(part.sum(dtype=np.float64) for part in losses)
    return float(nats / sum(int(text.sizes.sum()) for text in texts) / math.log(2))


def loss_by_position(losses: Losses, texts: Sequence[Text], length: int) -> list[float]:
    """Bits per byte of the tokens predicted after 1, 2, ... tokens of a window; as far as the longest text reaches."""
    nats, sizes = np.zeros(length), np.zeros(length)
    for part, text in zip(losses, texts, strict=True):
        filled = math.ceil(len(part) / length) * length
        nats += _pad(part.astype(np.float64), filled).reshape(-1, length).sum(axis=0)
        sizes += _pad(text.sizes, filled).reshape(-1, length).sum(axis=0)
    reached = sizes > 0
    return (nats[reached] / sizes[reached] / math.log(2)).tolist()


def evaluate(subject: Subject) -> Iterator[tuple[str, Any]]:
    """quality/*: of the subject's split, over windows and with the state carried over whole documents."""
    config, found = subject.config, texts(subject.split, subject.config.eval.limit)
    yield from windowed(subject, found)
    progress = subject.counter("tokens with the state carried")
    carried = carried_losses(subject.serving, found, config.length, config.eval.batch, progress)
    yield "quality/bits_per_byte_carried", bits_per_byte(carried, found)
    longest = max(map(len, carried))
    yield "quality/carried_context", longest
    yield "quality/carried_state_bytes", state_size(subject.serving, longest).bytes


def windowed(subject: Subject, found: Sequence[Text]) -> Iterator[tuple[str, Any]]:
    """The part over windows. quality/documents has [bytes, bits per byte] of every document in its order, quality/text the
    digest of the bytes that were scored: what `scripts/diff.py` asks for, whatever the tokens are."""
    length, progress = subject.config.length, subject.counter("tokens over windows")
    losses = windowed_losses(subject.model, found, length, subject.config.eval.batch, progress)
    scores = [bits_per_byte([part], [text]) for part, text in zip(losses, found, strict=True)]
    sizes = [int(text.sizes.sum()) for text in found]
    yield "quality/split", subject.split.split
    yield "quality/limit", subject.config.eval.limit
    yield "quality/bytes", sum(sizes)
    yield "quality/context", length
    yield "quality/bits_per_byte", bits_per_byte(losses, found)
    if len(found) <= NAMED:
        yield "quality/by_document", {text.name: bits for text, bits in zip(found, scores, strict=True)}
    yield "quality/documents", [list(pair) for pair in zip(sizes, scores, strict=True)]
    yield "quality/text", digest(subject.split, found)
    yield "quality/loss_by_position", loss_by_position(losses, found, length)


def digest(split: TokenFile, texts: Sequence[Text]) -> str:
    """Of the scored bytes, document by document."""
    total = hashlib.sha256()
    for text in texts:
        content = split.tokenizer.decode(text.targets)
        total.update(len(content).to_bytes(8) + content)
    return total.hexdigest()


@jax.jit(donate_argnames="states")
def _score_segment(
    model: LanguageModel,
    inputs: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    states: tuple[State, ...],
) -> tuple[Float[Array, "B T"], tuple[State, ...]]:
    """Nats of the first `lengths` targets of each row, what stands behind them being of no meaning; and the states."""
    hidden, states = model.prefill(inputs, states, starts=inputs == model.boundary, lengths=lengths)
    logits = model.logits(hidden)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target, states


def _cut(text: Text, length: int) -> Batch:
    """The windows of one text, which begins with its boundary; the last one is filled up with tokens of weight 0."""
    size = len(text.targets)
    shape = math.ceil(size / length), length
    inputs, targets = (_pad(tokens, math.prod(shape)).reshape(shape) for tokens in (text.inputs, text.targets))
    place = np.arange(math.prod(shape)).reshape(shape)
    return Batch(inputs, targets, place == 0, (place < size).astype(np.float32))


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the first axis, up to `size`."""
    return np.concatenate((rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)))


def _segment(rows: Sequence[np.ndarray], count: int, first: int, length: int) -> Int[np.ndarray, "B T"]:
    """`length` tokens of each row from `first` on, zeros where a row has ended, and rows of zeros up to `count`."""
    return _pad(np.stack([_pad(row[first : first + length], length) for row in rows]), count)
