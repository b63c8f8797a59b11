"""Which form of a mixer, and which size of its chunks or blocks, is the fastest on this device:
forward and backward.
"""

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
CLEARLY = 0.9  # of the default form's time: what is not below it is noise, and the default stays


def tune(
    config: Config, limits: Limits = Limits(), say: Callable[[str], None] = print
) -> tuple[Choices, list[Timing]]:
    """The choice for each mixer of the config's pattern whose method is "auto", at its batch,
    length, width and dtype; and what was measured. Forms that are too large or too slow for
    `limits` are skipped. Memory does not count.
    """
    choices, timings = {}, []
    for layer in parse_pattern(config.model.mixer):
        forms = resolve_mixer(layer.mixer).forms
        if (
            forms is None
            or layer.mixer in choices
            or dict(layer.options).get("method", "auto") != "auto"
        ):
            continue
        found = dict(candidates(layer, config))
        say(f"{layer.mixer}: {len(found)} forms")
        measured = dict(zip(found, measure(list(found.values()), limits)))
        timings += measured.values()
        choices[layer.mixer] = dict(_best(measured, forms.auto(family(jax.devices()[0].platform))))
    return choices, timings


def candidates(layer: Layer, config: Config) -> Iterator[tuple[tuple, Case]]:
    """By options, in the mixer's own default size first: every form in every size that makes it
    another program.
    """
    given = dict(layer.options)
    signature = inspect.signature(resolve_mixer(layer.mixer).__init__).parameters
    size = next((name for name in SIZES if name in signature and name not in given), None)
    sizes = (
        [{}]
        if size is None
        else [{size: n} for n in dict.fromkeys((signature[size].default, *SIZES[size]))]
    )
    call = lambda mixer, x: mixer(x)
    for form in resolve_mixer(layer.mixer).forms:
        programs = set()
        for options in ({"method": form} | more for more in sizes):
            make = partial(_arguments, Layer(layer.mixer, tuple((given | options).items())), config)
            program = jax.jit(call).lower(*jax.eval_shape(make)).as_text()
            if program not in programs:
                programs.add(program)
                name = ", ".join(
                    [form, *(f"{key} {value}" for key, value in options.items() if key != "method")]
                )
                (case,) = pass_cases(
                    layer.mixer, name, (config.batch, config.length), call, make, passes=("train",)
                )
                yield tuple(options.items()), case


def _arguments(layer: Layer, config: Config) -> tuple[nnx.Module, jax.Array]:
    x = normal(config.batch, config.length, config.model.dim).astype(config.model.dtype)
    options = dict(layer.options)
    return resolve_mixer(layer.mixer)(
        config.model.dim, **options, dtype=x.dtype, rngs=nnx.Rngs(0)
    ), x


def _best(measured: dict[tuple, Timing], default: str) -> tuple:
    """The fastest, unless the default form in its default size, which is its first, is about as
    fast.
    """
    usual = next(options for options in measured if dict(options)["method"] == default)
    seconds = {
        options: timing.seconds
        for options, timing in measured.items()
        if timing.seconds is not None
    }
    best = min(seconds, key=seconds.get, default=usual)
    return usual if seconds.get(usual, float("inf")) * CLEARLY < seconds.get(best, 0.0) else best
