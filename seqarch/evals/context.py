"""Who uses its context: the same bytes predicted after more and more tokens of it.

A target is the last length/4 tokens of a window of L tokens, L = length/4, ..., 8 length, that
begins inside its document; the window is read from an empty state, which is carried through it. So
each L scores the same bytes, and a model that resets its state every `length` tokens has the score
at L = length for every longer L. Attention without a window is also scored as truncated to
`length`: the same parameters, in layers that see only the last `length` tokens.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.evals.evaluator import Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.evals.quality import Text, bits_per_byte, carried_losses, texts
from seqarch.model import LanguageModel
from seqarch.patterns import Layer, options_of
from seqarch.records import Record
from seqarch.tasks.base import BITS_PER_BYTE

FACTORS = (1 / 4, 1 / 2, 1, 2, 4, 8)  # of the length of training windows


def evaluate(run: LoadedRun, *, targets: int = 8) -> Iterator[Record]:
    """Yields bits per byte of the targets at each context L.

    targets: in each document that is long enough for all L; 0 for none
    """
    config = run.config
    lengths = sorted({max(1, int(factor * config.length)) for factor in FACTORS})
    ends = target_ends(texts(run.split, config.eval.limit), lengths[-1], targets)
    yield Record("context", "targets", len(ends))
    if not ends:
        return
    truncated = truncate(run.serving, config.model, config.length)
    for length in lengths:
        at = {"context": length}
        yield Record("context", "carried", _score(run, run.serving, ends, length), at, n=len(ends))
        if truncated is not None and length > config.length:
            yield Record(
                "context", "truncated", _score(run, truncated, ends, length), at, n=len(ends)
            )


def target_ends(texts: Sequence[Text], longest: int, count: int) -> list[tuple[Text, int]]:
    """`count` places in each text of at least `longest` tokens, evenly spaced, at which a target
    ends.
    """
    long_enough = [text for text in texts if len(text.targets) >= longest]
    return [
        (text, int(end))
        for text in long_enough
        for end in np.linspace(longest, len(text.targets), count)
    ]


def truncate(model: LanguageModel, config: ModelConfig, window: int) -> LanguageModel | None:
    """`model` with every attention layer that sees all tokens seeing the last `window` ones; None
    where it has none.

    model: unstacked, with the layers of `config`
    """

    def narrow(layer: Layer) -> Layer:
        unlimited = (
            "window" in options_of(layer.mixer) and dict(layer.options).get("window") is None
        )
        return Layer(layer.mixer, (*layer.options, ("window", window))) if unlimited else layer

    layers = tuple(config.stack)
    narrowed = tuple(map(narrow, layers))
    if narrowed == layers:
        return None
    config = dataclasses.replace(config, mixer=",".join(map(str, narrowed)))
    shape = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)).unstack())
    return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(model))


def _score(
    run: LoadedRun, model: LanguageModel, ends: list[tuple[Text, int]], length: int
) -> float:
    config = run.config
    windows = [_cut(text, end - length, end) for text, end in ends]
    progress = run.counter(f"tokens in contexts of {length}")
    losses = carried_losses(model, windows, min(length, config.length), config.eval.batch, progress)
    target = max(1, config.length // 4)
    return bits_per_byte(
        [part[-target:] for part in losses], [_cut(window, -target, None) for window in windows]
    )


def _cut(text: Text, start: int, stop: int | None) -> Text:
    return Text(text.name, *(column[start:stop] for column in text[1:]))


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric("targets", "targets", "count", "Places in the held-out text that are scored."),
        Metric(
            "carried",
            "carried",
            "bits",
            "With the state carried from the first of so many tokens.",
            True,
        ),
        Metric(
            "truncated",
            "truncated",
            "bits",
            "In attention layers that see one training window only.",
            True,
        ),
    ),
    tables=(
        TableSpec(
            "Use of context",
            "Bits per byte of the same bytes after so many tokens of context, the state carried "
            "from the first of "
            "them on. A model that resets its state has the value at the length of training "
            "windows for all longer "
            "contexts. Truncated: the same parameters, in attention layers that see one "
            "training window only.",
            ("carried", "truncated"),
        ),
    ),
    figures=(
        FigureSpec(
            "use-of-context",
            "Who uses a longer context?",
            "Bits per byte of the same bytes after more and more tokens of context. A curve "
            "that falls uses its "
            "context; one that rises does not stand contexts longer than those of training.",
            "carried",
            over="context",
            log=False,
        ),
    ),
    over_seeds=True,
    score=BITS_PER_BYTE.metric,
)
