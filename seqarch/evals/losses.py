"""Losses of a model on held-out documents, for every token of every document.

A document can be scored in two ways:
    windowed_losses   the model forgets after every `length` tokens, as in training
    carried_losses    its state is carried through the whole document

`bits_per_byte` makes one number of the losses, which compares across tokenizers.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.model import LanguageModel
from seqarch.tasks.batch import Batch
from seqarch.tasks.text.tokens import TokenFile
from seqarch.training.state import token_losses
from seqarch.types import Array, Float, Int, State


class Scored(NamedTuple):
    """The part of one document that is scored.

    Attributes:
      name: the document's name.
      inputs: the tokens that the model reads.
      targets: the tokens that follow them.
      sizes: bytes of each target.
    """

    name: str
    inputs: Int[np.ndarray, "n"]
    targets: Int[np.ndarray, "n"]
    sizes: Int[np.ndarray, "n"]


Losses = list[Float[np.ndarray, "n"]]  # nats of each token, by text
Counter = Callable[[int, int], None]  # takes the tokens that are scored, and of how many


def texts(split: TokenFile, limit: int = 0) -> list[Scored]:
    """Returns the documents of a split.

    The first token of a document is predicted from the boundary; the boundary after its last token
    is not predicted.

    Args:
      split: the held-out text.
      limit: bytes of each document that are scored, from its beginning, as far as whole tokens
        reach; 0 for all.
    """
    found = []
    for document in split.documents:
        content = split.read_tokens(document, limit)
        inputs = np.concatenate(([split.boundary], content[:-1]), dtype=np.int32)
        found.append(Scored(document.name, inputs, content, split.tokenizer.sizes[content]))
    return found


def windowed_losses(
    model: LanguageModel, texts: Sequence[Scored], length: int, batch: int, progress: Counter
) -> Losses:
    """Returns losses over windows that do not overlap, each starting without a past.

    Args:
      model: the model.
      texts: what is scored; the k-th window of a text holds its tokens [k length, (k+1) length).
      length: tokens of a window.
      batch: windows that are scored at once.
      progress: takes the tokens that are scored.
    """
    rows = [_cut(text, length) for text in texts]
    windows = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
    score = jax.jit(token_losses)
    losses = np.zeros(windows.tokens.shape, np.float32)
    for start in range(0, len(losses), batch):
        part = jax.tree.map(
            lambda column: _pad(column, batch), windows.take(slice(start, start + batch))
        )
        losses[start : start + batch] = np.asarray(score(model, part))[: len(losses) - start]
        progress(int(windows.weights[: start + batch].sum()), int(windows.weights.sum()))
    bounds = np.cumsum([len(row.tokens) for row in rows])[:-1]
    by_text = zip(np.split(losses, bounds), texts, strict=True)
    return [part.ravel()[: len(text.targets)] for part, text in by_text]


def carried_losses(
    model: LanguageModel, texts: Sequence[Scored], length: int, batch: int, progress: Counter
) -> Losses:
    """Returns losses with the state carried through each text, which is one row.

    States are made for the longest text, so memory grows with it where a state is a cache.

    Args:
      model: unstacked.
      texts: what is scored.
      length: tokens that a row reads at once.
      batch: texts that are scored at once.
      progress: takes the tokens that are scored.
    """
    # Texts of similar length stand in one batch, so that its rows end together.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].targets))
    rows, max_len = min(batch, len(texts)), len(texts[order[0]].targets)
    losses, done, total = {}, 0, sum(len(text.targets) for text in texts)
    for start in range(0, len(texts), rows):
        group = [texts[i] for i in order[start : start + rows]]
        sizes = np.array([len(text.targets) for text in group] + [0] * (rows - len(group)))
        states = jax.tree.map(jnp.copy, model.init_state(rows, max_len))  # they are donated
        parts = []
        for first in range(0, sizes.max(), length):
            inputs = _segment([text.inputs for text in group], rows, first, length)
            targets = _segment([text.targets for text in group], rows, first, length)
            lengths = np.clip(sizes - first, 0, length)
            part, states = _score_segment(model, inputs, targets, lengths, states)
            parts.append(np.asarray(part))
            done += int(lengths.sum())
            progress(done, total)
        whole = np.concatenate(parts, axis=1)
        losses |= {order[start + i]: whole[i, :size] for i, size in enumerate(sizes[: len(group)])}
    return [losses[i] for i in range(len(texts))]


def bits_per_byte(losses: Losses, texts: Sequence[Scored]) -> float:
    """Returns nats of all tokens / bytes of all tokens / ln 2.

    A long document therefore weighs more than a short one.
    """
    nats = sum(part.sum(dtype=np.float64) for part in losses)
    return float(nats / sum(int(text.sizes.sum()) for text in texts) / math.log(2))


def loss_by_position(losses: Losses, texts: Sequence[Scored], length: int) -> list[float]:
    """Returns bits per byte of the tokens that are predicted after 1, 2, ... tokens of a window.

    Args:
      losses: those of `windowed_losses`.
      texts: what was scored.
      length: tokens of a window; the result ends where the longest text does.
    """
    nats, sizes = np.zeros(length), np.zeros(length)
    for part, text in zip(losses, texts, strict=True):
        filled = math.ceil(len(part) / length) * length
        nats += _pad(part.astype(np.float64), filled).reshape(-1, length).sum(axis=0)
        sizes += _pad(text.sizes, filled).reshape(-1, length).sum(axis=0)
    reached = sizes > 0
    return (nats[reached] / sizes[reached] / math.log(2)).tolist()


@jax.jit(donate_argnames="states")
def _score_segment(
    model: LanguageModel,
    inputs: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    states: tuple[State, ...],
) -> tuple[Float[Array, "B T"], tuple[State, ...]]:
    """Returns the nats of the targets, of which the first `lengths` of a row count, and states."""
    hidden, states = model.prefill(inputs, states, starts=inputs == model.boundary, lengths=lengths)
    logits = model.logits(hidden)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target, states


def _cut(text: Scored, length: int) -> Batch:
    """Returns the windows of one text; the last one is padded with tokens of weight 0."""
    size = len(text.targets)
    shape = math.ceil(size / length), length
    inputs, targets = (
        _pad(tokens, math.prod(shape)).reshape(shape) for tokens in (text.inputs, text.targets)
    )
    place = np.arange(math.prod(shape)).reshape(shape)
    return Batch(inputs, targets, place == 0, (place < size).astype(np.float32))


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Returns `rows` with zeros after them, `size` rows in all."""
    return np.concatenate((rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)))


def _segment(
    rows: Sequence[np.ndarray], count: int, first: int, length: int
) -> Int[np.ndarray, "B T"]:
    """Returns `length` tokens of each row from `first` on, padded with zeros to `count` rows."""
    return _pad(np.stack([_pad(row[first : first + length], length) for row in rows]), count)
