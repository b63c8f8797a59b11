"""Whether a model uses its context: bits per byte of the same bytes after ever more tokens.

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

from seqarch.config import ModelConfig
from seqarch.evals.evaluator import BY_CONTEXT, Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.evals.losses import Scored, bits_per_byte, carried_losses, texts
from seqarch.model import LanguageModel, abstract_model
from seqarch.patterns import Layer, options_of
from seqarch.records import Record
from seqarch.tasks.base import BITS_PER_BYTE

FACTORS = (1 / 4, 1 / 2, 1, 2, 4, 8)  # of the length of training windows


def evaluate(run: LoadedRun, *, targets: int = 8) -> Iterator[Record]:
    """Yields bits per byte of the targets at each context L.

    Args:
      run: the run to measure.
      targets: targets in each document that is long enough for all L; 0 for none.
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
        score = _score(run, run.serving, ends, length)
        yield Record("context", "carried", score, at, n=len(ends))
        if truncated is not None and length > config.length:
            score = _score(run, truncated, ends, length)
            yield Record("context", "truncated", score, at, n=len(ends))


def target_ends(texts: Sequence[Scored], longest: int, count: int) -> list[tuple[Scored, int]]:
    """Returns texts with the positions at which their targets end, evenly spaced.

    Args:
      texts: documents; those of fewer than `longest` tokens have no target.
      longest: tokens of the longest context.
      count: targets of each document.
    """
    found = []
    for text in texts:
        if len(text.targets) >= longest:
            ends = np.linspace(longest, len(text.targets), count)
            found += [(text, int(end)) for end in ends]
    return found


def truncate(model: LanguageModel, config: ModelConfig, window: int) -> LanguageModel | None:
    """Returns `model` with attention over the last `window` tokens where it is over all tokens.

    Args:
      model: unstacked, with the layers of `config`.
      config: its config.
      window: tokens that such a layer then sees.

    Returns:
      The model with the same parameters; None where no layer sees all tokens.
    """

    def narrow(layer: Layer) -> Layer:
        has_window = "window" in options_of(layer.mixer)
        if has_window and dict(layer.options).get("window") is None:
            options = dict(layer.options) | {"window": window}
            return dataclasses.replace(layer, options=tuple(options.items()))
        return layer

    layers = tuple(config.stack)
    narrowed = tuple(map(narrow, layers))
    if narrowed == layers:
        return None
    config = dataclasses.replace(config, mixer=",".join(map(str, narrowed)))
    shape = jax.eval_shape(LanguageModel.unstack, abstract_model(config))
    return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(model))


def _score(
    run: LoadedRun, model: LanguageModel, ends: list[tuple[Scored, int]], length: int
) -> float:
    """Returns the bits per byte of the targets after `length` tokens of context."""
    config = run.config
    windows = [_cut(text, end - length, end) for text, end in ends]
    progress = run.counter(f"tokens in contexts of {length}")
    losses = carried_losses(model, windows, min(length, config.length), config.eval.batch, progress)
    target = max(1, config.length // 4)
    scored = [_cut(window, -target, None) for window in windows]
    return bits_per_byte([part[-target:] for part in losses], scored)


def _cut(text: Scored, start: int, stop: int | None) -> Scored:
    return Scored(text.name, *(column[start:stop] for column in text[1:]))


def _bits(name: str, help: str) -> Metric:
    return Metric(name, name, "bits", help, lower=True, at=BY_CONTEXT)


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric("targets", "targets", "count", "Places in the held-out text that are scored."),
        _bits(
            "carried", "Bits per byte with the state carried from the first token of the context."
        ),
        _bits("truncated", "Bits per byte where attention layers see one training window only."),
    ),
    tables=(
        TableSpec(
            "Use of context",
            "Bits per byte of the same bytes after so many tokens of context, the state carried "
            "from the first of them on. A model that resets its state has the value at the length "
            "of training windows for all longer contexts. Truncated: the same parameters, in "
            "attention layers that see one training window only.",
            ("carried", "truncated"),
        ),
    ),
    figures=(
        FigureSpec(
            "use-of-context",
            "Who uses a longer context?",
            "Bits per byte of the same bytes after more and more tokens of context. A curve that "
            "falls uses its context; one that rises does not stand contexts longer than those of "
            "training.",
            "carried",
            over="context",
            log=False,
        ),
    ),
    over_seeds=True,
    score=BITS_PER_BYTE.metric,
)
