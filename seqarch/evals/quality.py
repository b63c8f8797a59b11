"""How well a model predicts held-out documents: bits per byte, each byte predicted exactly once.

    bits per byte = nats of all tokens / bytes of all tokens / ln 2

so that it compares across tokenizers; where tokens are bytes, it is bits per token. The same
question in two forms, each answered by nats for every token of every document:
    windowed_losses   the model forgets after every `length` tokens, as in training
    carried_losses    its state is carried through the whole document, which is what a state is for
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.costs.memory import state_size
from seqarch.evals.evaluator import Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.model import LanguageModel
from seqarch.records import Fact, Record
from seqarch.tasks.base import BITS_PER_BYTE, Batch
from seqarch.tasks.text.tokens import TokenFile
from seqarch.training.state import token_losses
from seqarch.types import Array, Float, Int, State


class Text(NamedTuple):
    """What is scored of one document: the tokens that the model reads, those that follow them, and
    the bytes of these.
    """

    name: str
    inputs: Int[np.ndarray, "n"]
    targets: Int[np.ndarray, "n"]
    sizes: Int[np.ndarray, "n"]


Losses = list[Float[np.ndarray, "n"]]  # for each text, nats of each of its tokens
Progress = Callable[[int, int], None]  # tokens scored, of how many


def texts(split: TokenFile, limit: int = 0) -> list[Text]:
    """The documents of a split. The first token is predicted from the boundary; the next boundary
    is not predicted.

    limit: bytes of each document that are scored, from its beginning, as far as whole tokens go; 0
      for all
    """
    found = []
    for document in split.documents:
        content = split.read_tokens(document, limit)
        inputs = np.concatenate(([split.boundary], content[:-1]), dtype=np.int32)
        found.append(Text(document.name, inputs, content, split.tokenizer.sizes[content]))
    return found


def windowed_losses(
    model: LanguageModel, texts: Sequence[Text], length: int, batch: int, progress: Progress
) -> Losses:
    """Windows do not overlap: the k-th of a text reads its tokens [k length, (k+1) length). `batch`
    rows at a time.
    """
    rows = [_cut(text, length) for text in texts]
    windows = Batch(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
    score = jax.jit(token_losses)
    losses = np.zeros(windows.tokens.shape, np.float32)
    for start in range(0, len(losses), batch):
        part = jax.tree.map(lambda x: _pad(x[start : start + batch], batch), windows)  # noqa: B023
        losses[start : start + batch] = np.asarray(score(model, part))[: len(losses) - start]
        progress(int(windows.weights[: start + batch].sum()), int(windows.weights.sum()))
    bounds = np.cumsum([len(row.tokens) for row in rows])[:-1]
    return [
        part.ravel()[: len(text.targets)]
        for part, text in zip(np.split(losses, bounds), texts, strict=True)
    ]


def carried_losses(
    model: LanguageModel, texts: Sequence[Text], length: int, batch: int, progress: Progress
) -> Losses:
    """A text is a row, `batch` rows at a time; a row reads `length` tokens, then from the state
    that they left.

    model: unstacked. States are made for the longest text, so memory grows with it where a state is
      a cache.
    """
    order = sorted(
        range(len(texts)), key=lambda i: -len(texts[i].targets)
    )  # alike in length, so rows end together
    rows, max_len = min(batch, len(texts)), len(texts[order[0]].targets)
    losses, done, total = {}, 0, sum(len(text.targets) for text in texts)
    for start in range(0, len(texts), rows):
        group = [texts[i] for i in order[start : start + rows]]
        sizes = np.array([len(text.targets) for text in group] + [0] * (rows - len(group)))
        states, parts = (
            jax.tree.map(jnp.copy, model.init_state(rows, max_len)),
            [],
        )  # copies: they are donated
        for first in range(0, sizes.max(), length):
            inputs, targets = (
                _segment([text[field] for text in group], rows, first, length) for field in (1, 2)
            )
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
    """Bits per byte of the tokens predicted after 1, 2, ... tokens of a window; as far as the
    longest text reaches.
    """
    nats, sizes = np.zeros(length), np.zeros(length)
    for part, text in zip(losses, texts, strict=True):
        filled = math.ceil(len(part) / length) * length
        nats += _pad(part.astype(np.float64), filled).reshape(-1, length).sum(axis=0)
        sizes += _pad(text.sizes, filled).reshape(-1, length).sum(axis=0)
    reached = sizes > 0
    return (nats[reached] / sizes[reached] / math.log(2)).tolist()


def evaluate(run: LoadedRun) -> Iterator[Record | Fact]:
    """Yields bits per byte over windows, and with the state carried over whole documents."""
    config, found = run.config, texts(run.split, run.config.eval.limit)
    yield from windowed(run, found)
    progress = run.counter("tokens with the state carried")
    carried = carried_losses(run.serving, found, config.length, config.eval.batch, progress)
    yield Record("quality", "bits_per_byte_carried", bits_per_byte(carried, found), n=len(found))
    longest = max(map(len, carried))
    yield Record("quality", "carried_context", longest)
    yield Record("quality", "carried_state_bytes", state_size(run.serving, longest).bytes)


def windowed(run: LoadedRun, found: Sequence[Text]) -> Iterator[Record | Fact]:
    """Yields the part over windows; the fact "text" is a digest of the bytes that were scored,
    whatever their tokens are.
    """
    length, progress = run.config.length, run.counter("tokens over windows")
    losses = windowed_losses(run.model, found, length, run.config.eval.batch, progress)
    yield Record("quality", "bits_per_byte", bits_per_byte(losses, found), n=len(found))
    yield Record("quality", "bytes", sum(int(text.sizes.sum()) for text in found))
    yield Record("quality", "context", length)
    documents = {"document": [text.name for text in found]}
    scores = [bits_per_byte([part], [text]) for part, text in zip(losses, found, strict=True)]
    yield Record("quality", "document_bits_per_byte", scores, documents)
    yield Record("quality", "document_bytes", [int(text.sizes.sum()) for text in found], documents)
    by_position = loss_by_position(losses, found, length)
    positions = {"position": list(range(1, 1 + len(by_position)))}
    yield Record("quality", "position_bits_per_byte", by_position, positions)
    yield Fact("quality", "limit", run.config.eval.limit)
    yield Fact("quality", "text", digest(run.split, found))


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
    """Nats of the first `lengths` targets of each row, what stands behind them being of no meaning;
    and the states.
    """
    hidden, states = model.prefill(inputs, states, starts=inputs == model.boundary, lengths=lengths)
    logits = model.logits(hidden)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target, states


def _cut(text: Text, length: int) -> Batch:
    """The windows of one text, which begins with its boundary; the last one is filled up with
    tokens of weight 0.
    """
    size = len(text.targets)
    shape = math.ceil(size / length), length
    inputs, targets = (
        _pad(tokens, math.prod(shape)).reshape(shape) for tokens in (text.inputs, text.targets)
    )
    place = np.arange(math.prod(shape)).reshape(shape)
    return Batch(inputs, targets, place == 0, (place < size).astype(np.float32))


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the first axis, up to `size`."""
    return np.concatenate((rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)))


def _segment(
    rows: Sequence[np.ndarray], count: int, first: int, length: int
) -> Int[np.ndarray, "B T"]:
    """`length` tokens of each row from `first` on, zeros where a row has ended, and rows of zeros
    up to `count`.
    """
    return _pad(np.stack([_pad(row[first : first + length], length) for row in rows]), count)


METRICS = (
    Metric(
        "bits_per_byte",
        "bits/byte, windows",
        "bits",
        "Over windows, each starting without a past.",
        True,
    ),
    Metric(
        "bits_per_byte_carried",
        "bits/byte, carried",
        "bits",
        "With the state carried over each document.",
        True,
    ),
    Metric("bytes", "bytes scored", "count", "Bytes of held-out text that were scored."),
    Metric("context", "window", "count", "Tokens of a window."),
    Metric(
        "carried_context", "longest document", "count", "Tokens over which the state was carried."
    ),
    Metric(
        "carried_state_bytes",
        "state carried",
        "bytes",
        "Bytes of the state of the longest document.",
        True,
    ),
    Metric("document_bits_per_byte", "bits/byte", "bits", "Of each document, over windows.", True),
    Metric("document_bytes", "bytes", "count", "Bytes of each document that were scored."),
    Metric("position_bits_per_byte", "bits/byte", "bits", "By position in the window.", True),
)
EVALUATOR = Evaluator(
    evaluate,
    METRICS,
    tables=(
        TableSpec(
            "Quality",
            "Bits per byte of held-out text; lower is better. Over windows, each of which "
            "starts without a past, "
            "and with the state carried over each document from its beginning, as far as it is "
            "scored (eval.limit; "
            "0 is all of it).",
            ("bits_per_byte", "bits_per_byte_carried", "bytes"),
        ),
        TableSpec(
            "Quality by document",
            "Bits per byte of each held-out document, over windows. Documents differ more than "
            "models do: compare "
            "within a column.",
            ("document_bits_per_byte",),
        ),
    ),
    figures=(
        FigureSpec(
            "loss-by-position",
            "Who uses the context within a window?",
            "Bits per byte by position in the window: means over bins that grow with the position.",
            "position_bits_per_byte",
            over="position",
            log=False,
        ),
    ),
    over_seeds=True,
    score=BITS_PER_BYTE.metric,
)
