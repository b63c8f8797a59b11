"""Finds the fastest form of each mixer on this device, and the best size of its chunks or blocks.

Forms are timed forward and backward.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import partial

import jax
from flax import nnx

from benchmarks.bench import Limits, Timing, measure
from benchmarks.cases import Case, normal, pass_cases
from seqarch.config import Config
from seqarch.mixers import resolve_mixer
from seqarch.ops.forms import family
from seqarch.patterns import Layer, parse_pattern
from seqarch.tuning import Choices

SIZES = {"chunk": (16, 32, 64, 128, 256), "block": (128, 256, 512, 1024)}
CLEARLY = 0.9  # a form must take less than this share of the default's time to replace it


def tune(
    config: Config, limits: Limits = Limits(), say: Callable[[str], None] = print
) -> tuple[Choices, list[Timing]]:
    """Chooses a form for each mixer of the config's pattern whose method is "auto".

    Shapes are the batch, length, width and dtype of the config. Only time decides, not memory.
    Forms that exceed `limits` are skipped.

    Returns:
      The options of the choice by mixer, and all timings.
    """
    choices, timings = {}, []
    for layer in parse_pattern(config.model.mixer):
        forms = resolve_mixer(layer.mixer).forms
        fixed = dict(layer.options).get("method", "auto") != "auto"
        if forms is None or fixed or layer.mixer in choices:
            continue
        found = dict(candidates(layer, config))
        say(f"{layer.mixer}: {len(found)} forms")
        measured = dict(zip(found, measure(list(found.values()), limits)))
        timings += measured.values()
        choices[layer.mixer] = dict(_best(measured, forms.auto(family(jax.devices()[0].platform))))
    return choices, timings


def candidates(layer: Layer, config: Config) -> Iterator[tuple[tuple, Case]]:
    """Yields options with their case: each form in each size that makes it another program.

    The mixer's own default size comes first.
    """
    given = dict(layer.options)
    call = lambda mixer, x: mixer(x)
    for form in resolve_mixer(layer.mixer).forms.on(family(jax.default_backend())):
        programs = set()
        for size in _sizes(layer):
            options = {"method": form} | size
            changed = dataclasses.replace(layer, options=tuple((given | options).items()))
            make = partial(_arguments, changed, config)
            program = jax.jit(call).lower(*jax.eval_shape(make)).as_text()
            if program in programs:
                continue
            programs.add(program)
            name = ", ".join([form, *(f"{key} {value}" for key, value in size.items())])
            shape = config.batch, config.length
            (case,) = pass_cases(layer.mixer, name, shape, call, make, passes=("train",))
            yield tuple(options.items()), case


def _sizes(layer: Layer) -> list[dict[str, int]]:
    """The options to try for the size of chunks or blocks; one empty dict where there is none."""
    signature = inspect.signature(resolve_mixer(layer.mixer).__init__).parameters
    for name, sizes in SIZES.items():
        if name in signature and name not in dict(layer.options):
            return [{name: n} for n in dict.fromkeys((signature[name].default, *sizes))]
    return [{}]


def _arguments(layer: Layer, config: Config) -> tuple[nnx.Module, jax.Array]:
    """The mixer of a layer, and its input."""
    x = normal(config.batch, config.length, config.model.dim).astype(config.model.dtype)
    make, options = resolve_mixer(layer.mixer), dict(layer.options)
    return make(config.model.dim, **options, dtype=x.dtype, rngs=nnx.Rngs(0)), x


def _best(measured: dict[tuple, Timing], default: str) -> tuple:
    """The options of the fastest form; those of the default form where it is about as fast.

    The default form is tried in its default size first.
    """
    usual = next(options for options in measured if dict(options)["method"] == default)
    seconds = {}
    for options, timing in measured.items():
        if timing.seconds is not None:
            seconds[options] = timing.seconds
    best = min(seconds, key=seconds.get, default=usual)
    return usual if seconds.get(usual, float("inf")) * CLEARLY < seconds.get(best, 0.0) else best
