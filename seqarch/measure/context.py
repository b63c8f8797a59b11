"""Who uses its context: the same bytes predicted after more and more tokens of it.

A target is the last length/4 tokens of a window of L tokens, L = length/4, ..., 8 length, that begins inside its document; the
window is read from an empty state, which is carried through it. So each L scores the same bytes, and a model that resets its
state every `length` tokens has the score at L = length for every longer L. Attention without a window is also scored as
truncated to `length`: the same parameters, in layers that see only the last `length` tokens.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.measure.quality import Text, bits_per_byte, carried_losses, texts
from seqarch.measure.subject import Subject
from seqarch.model import LanguageModel
from seqarch.patterns import Layer, options_of

FACTORS = (1 / 4, 1 / 2, 1, 2, 4, 8)  # of the length of training windows


def evaluate(subject: Subject) -> Iterator[tuple[str, Any]]:
    """context/*: bits per byte @L of the targets, config.eval.targets in each document that is long enough for all L."""
    config, model = subject.config, subject.serving
    lengths = sorted({max(1, int(factor * config.length)) for factor in FACTORS})
    ends = target_ends(texts(subject.split, config.eval.limit), lengths[-1], config.eval.targets)
    yield "context/targets", len(ends)
    if not ends:
        return
    truncated = truncate(model, config.model, config.length)
    for length in lengths:
        yield f"context/carried@{length}", _score(subject, model, ends, length)
        if truncated is not None and length > config.length:
            yield f"context/truncated@{length}", _score(subject, truncated, ends, length)


def target_ends(texts: Sequence[Text], longest: int, count: int) -> list[tuple[Text, int]]:
    """`count` places in each text of at least `longest` tokens, evenly spaced, at which a target ends."""
    long_enough = [text for text in texts if len(text.targets) >= longest]
    return [(text, int(end)) for text in long_enough for end in np.linspace(longest, len(text.targets), count)]


def truncate(model: LanguageModel, config: ModelConfig, window: int) -> LanguageModel | None:
    """`model` with every attention layer that sees all tokens seeing the last `window` ones; None where it has none.

    model: unstacked, with the layers of `config`
    """

    def narrow(layer: Layer) -> Layer:
        unlimited = "window" in options_of(layer.mixer) and dict(layer.options).get("window") is None
        return Layer(layer.mixer, (*layer.options, ("window", window))) if unlimited else layer

    layers = tuple(config.stack)
    narrowed = tuple(map(narrow, layers))
    if narrowed == layers:
        return None
    config = dataclasses.replace(config, mixer=",".join(map(str, narrowed)))
    shape = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)).unstack())
    return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(model))


def _score(subject: Subject, model: LanguageModel, ends: list[tuple[Text, int]], length: int) -> float:
    config = subject.config
    windows = [_cut(text, end - length, end) for text, end in ends]
    progress = subject.counter(f"tokens in contexts of {length}")
    losses = carried_losses(model, windows, min(length, config.length), config.eval.batch, progress)
    target = max(1, config.length // 4)
    return bits_per_byte([part[-target:] for part in losses], [_cut(window, -target, None) for window in windows])


def _cut(text: Text, start: int, stop: int | None) -> Text:
    return Text(text.name, *(column[start:stop] for column in text[1:]))
