"""Bits per byte of held-out documents, over windows and with the state carried.

The losses are those of seqarch.evals.losses.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqarch.costs.memory import state_size
from seqarch.evals.evaluator import Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.evals.losses import (
    Scored,
    bits_per_byte,
    carried_losses,
    loss_by_position,
    texts,
    windowed_losses,
)
from seqarch.records import Fact, Record
from seqarch.tasks.base import BITS_PER_BYTE
from seqarch.tasks.text.tokens import TokenFile


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


def windowed(run: LoadedRun, found: Sequence[Scored]) -> Iterator[Record | Fact]:
    """Yields bits per byte over windows: of all documents, of each, and by position.

    The fact "text" is a digest of the bytes that were scored, whatever their tokens are.
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


def digest(split: TokenFile, texts: Sequence[Scored]) -> str:
    """Returns a digest of the scored bytes, document by document."""
    total = hashlib.sha256()
    for text in texts:
        content = split.tokenizer.decode(text.targets)
        total.update(len(content).to_bytes(8) + content)
    return total.hexdigest()


def _bits(name: str, title: str, help: str, at: Mapping[str, Any] = {}) -> Metric:
    return Metric(name, title, "bits", help, lower=True, at=at)


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        _bits(
            "bits_per_byte",
            "bits/byte, windows",
            "Bits per byte over windows, each starting without a past.",
        ),
        _bits(
            "bits_per_byte_carried",
            "bits/byte, carried",
            "Bits per byte with the state carried over each document.",
        ),
        Metric("bytes", "bytes scored", "count", "Bytes of held-out text that were scored."),
        Metric("context", "window", "count", "Tokens of a window."),
        Metric(
            "carried_context",
            title="longest document",
            unit="count",
            help="Tokens over which the state was carried.",
        ),
        Metric(
            "carried_state_bytes",
            title="state carried",
            unit="bytes",
            help="Bytes of the state of the longest document.",
            lower=True,
        ),
        _bits(
            "document_bits_per_byte",
            "bits/byte",
            "Bits per byte of each document, over windows.",
            {"document": [str]},
        ),
        Metric(
            "document_bytes",
            title="bytes",
            unit="count",
            help="Bytes of each document that were scored.",
            at={"document": [str]},
        ),
        _bits(
            "position_bits_per_byte",
            "bits/byte",
            "Bits per byte by position in the window.",
            {"position": [int]},
        ),
    ),
    tables=(
        TableSpec(
            "Quality",
            "Bits per byte of held-out text; lower is better. Over windows, each of which starts "
            "without a past, and with the state carried over each document from its beginning, as "
            "far as it is scored (eval.limit; 0 is all of it).",
            ("bits_per_byte", "bits_per_byte_carried", "bytes"),
        ),
        TableSpec(
            "Quality by document",
            "Bits per byte of each held-out document, over windows. Documents differ more than "
            "models do: compare within a column.",
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
