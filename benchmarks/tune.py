"""Finds the fastest form of each mixer on this device, and the best size of its chunks or blocks.

Forms are timed forward and backward.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from flax import nnx

from benchmarks.cases import Case, normal, pass_cases
from benchmarks.measure import CaseTiming, Limits, measure
from seqarch.config import Config
from seqarch.mixers import resolve_mixer
from seqarch.ops.forms import family
from seqarch.patterns import Layer, parse_pattern
from seqarch.runtime.progress import Say
from seqarch.tuning import Choices

SIZES = {"chunk": (16, 32, 64, 128, 256), "block": (128, 256, 512, 1024)}
CLEARLY = 0.9  # a form must take less than this share of the default's time to replace it


def tune(
    config: Config, limits: Limits = Limits(), say: Say = print
) -> tuple[Choices, list[CaseTiming]]:
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
        seconds = {options: timing.seconds for options, timing in measured.items()}
        default = forms.auto(family(jax.devices()[0].platform))
        choices[layer.mixer] = dict(best(seconds, default))
    return choices, timings


def candidates(layer: Layer, config: Config) -> Iterator[tuple[tuple, Case]]:
    """Yields options with their case: each form in each size that makes it another program."""
    call, programs = lambda mixer, x: mixer(x), set()
    for options, make in sized_forms(layer, config, family(jax.default_backend())):
        program = options["method"], jax.jit(call).lower(*jax.eval_shape(make)).as_text()
        if program in programs:
            continue
        programs.add(program)
        form, *size = options.items()
        name = ", ".join([form[1], *(f"{key} {value}" for key, value in size)])
        shape = config.batch, config.length
        (case,) = pass_cases(layer.mixer, name, shape, call, make, passes=("train",))
        yield tuple(options.items()), case


def sized_forms(
    layer: Layer, config: Config, platform: str
) -> Iterator[tuple[dict[str, Any], Callable[[], tuple[nnx.Module, jax.Array]]]]:
    """Yields the options of each form of a mixer in each size, and what makes it and its input.

    The mixer's own default size comes first.

    Args:
      layer: the mixer, with the options that it has in every form.
      config: says batch, length, width and dtype.
      platform: "cpu", "gpu" or "tpu".
    """
    given = dict(layer.options)
    for form in resolve_mixer(layer.mixer).forms.on(platform):
        for size in _sizes(layer):
            options = {"method": form} | size
            changed = dataclasses.replace(layer, options=tuple((given | options).items()))
            yield options, partial(_arguments, changed, config)


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


def best(seconds: dict[tuple, float | None], default: str) -> tuple:
    """Returns the options of the fastest form; those of the default form where it is about as fast.

    Args:
      seconds: by options; None where a form has no time. The default size of a form comes first.
      default: the name of the form, which may have no time.
    """
    usual = next((each for each in seconds if dict(each)["method"] == default), None)
    timed = {options: each for options, each in seconds.items() if each is not None}
    fastest = min(timed, key=timed.get, default=usual)
    if fastest is None:
        raise ValueError(f"no form has a time, and the default {default} is none of them")
    kept = timed.get(usual, float("inf")) * CLEARLY < timed.get(fastest, 0.0)
    return usual if kept else fastest
