"""Matches the decode state or the training FLOPs of models, by an option of a mixer or the width.

Bytes and FLOPs are those of the model itself, built abstractly. A solution is the nearest of the
whole numbers that the searched field may have, since both grow with it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from seqarch.config import ModelConfig
from seqarch.costs.memory import state_bytes
from seqarch.costs.programs import serving_model
from seqarch.errors import UserError
from seqarch.mixers import resolve_mixer
from seqarch.model import count_parameters
from seqarch.model_flops import train_flops
from seqarch.patterns import Layer, parse_pattern
from seqarch.report.formats import format_bytes, format_si

TOLERANCE = 0.1  # relative error of bytes and of FLOPs; widths that heads divide are coarse
MOST_PARAMETERS = 10  # times those of the reference that a matched member may have
WIDEST_UNIT = 1024  # smallest width of the model that is tried as the unit of widths

ModelMeasure = Callable[[ModelConfig], float]


class Field(NamedTuple):
    """A field of a model that is solved for.

    Attributes:
      name: as an error names it, such as "model.dim".
      unit: its values are multiples of this.
      set: returns the model with a value.
      start: number of units with which the search begins.
    """

    name: str
    unit: int
    set: Callable[[int], ModelConfig]
    start: int = 1


@functools.cache
def flops_per_token(model: ModelConfig, length: int, source: int = 0) -> float:
    """Returns the model FLOPs of training on a token of rows; arguments as of `state_bytes`."""
    encoded = source if model.encodes else 0
    return train_flops(serving_model(model), length - encoded, source=encoded).total / length


def match_state(
    model: ModelConfig, length: int, reference: ModelConfig, source: int = 0
) -> ModelConfig:
    """Returns `model` with the bytes of state of `reference`, within TOLERANCE.

    The option that sizes the state of a mixer is solved for (`SequenceMixer.state_option`), and
    where it has none, or the layer pattern gives it, the width of the model.

    Args:
      model: the member.
      length: tokens of context.
      reference: a model.
      source: those that an encoder-decoder encodes.

    Raises:
      UserError: where no value comes within the tolerance, or the member gets too large by it.
    """
    measure = functools.partial(state_bytes, length=length, source=source)
    return _match(model, reference, measure, _state_fields(model), format_bytes, "of state")


def match_flops(
    model: ModelConfig, length: int, reference: ModelConfig, source: int = 0
) -> ModelConfig:
    """Returns `model` with the width at which a token trains at the FLOPs of `reference`.

    Arguments are those of `match_state`.

    Raises:
      UserError: where no width comes within TOLERANCE.
    """
    measure = functools.partial(flops_per_token, length=length, source=source)
    fields = [width_field(model)]
    return _match(model, reference, measure, fields, format_si, "FLOPs a token")


def _match(
    model: ModelConfig,
    reference: ModelConfig,
    measure: ModelMeasure,
    fields: Iterable[Field],
    show: Callable[[float], str],
    what: str,
) -> ModelConfig:
    """Returns the model as it is if it matches exactly, else with the first field that does."""
    target, tried = measure(reference), []
    if measure(model) == target:
        return model
    for field in fields:
        value = nearest(field, measure, target)
        found = field.set(value)
        if abs(measure(found) - target) <= TOLERANCE * target:
            return _check_size(found, field.name, value, reference)
        tried.append(f"{field.name}={value} has {show(measure(found))}")
    raise UserError(
        f"{model.mixer!r} cannot come within {TOLERANCE:.0%} of {show(target)} {what}: "
        f"{', '.join(tried)}; give another reference, or the member other options"
    )


def _check_size(model: ModelConfig, name: str, value: int, reference: ModelConfig) -> ModelConfig:
    """Returns `model`; raises UserError where it has far more parameters than the reference."""
    count, most = count_parameters(model), MOST_PARAMETERS * count_parameters(reference)
    if count > most:
        raise UserError(
            f"{model.mixer!r} matches {reference.mixer!r} at {name}={value} alone, with "
            f"{count:,} parameters, more than {MOST_PARAMETERS} times the reference's; give "
            "another reference"
        )
    return model


def nearest(field: Field, measure: ModelMeasure, target: float) -> int:
    """Returns the value of a field at which a measure that grows with it is nearest to `target`."""

    @functools.cache
    def at(units: int) -> float:
        return measure(field.set(units * field.unit))

    low = high = field.start
    while at(high) < target and (high == low or at(high) > at(low)):
        low, high = high, math.ceil(high * max(2.0, target / at(high)))
    if at(high) < target:
        return low * field.unit  # more changes nothing
    while at(low) >= target and low > 1:
        low, high = max(1, math.floor(low * min(0.5, target / at(low)))), low
    bisect = False
    while high - low > 1:
        rise = at(high) - at(low)
        share = 0.5 if bisect or not rise else (target - at(low)) / rise
        middle = min(max(low + math.ceil(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if at(middle) < target else (low, middle)
        bisect = not bisect
    return min((low, high), key=lambda units: abs(at(units) - target)) * field.unit


def least_enough(field: Field, measure: ModelMeasure, target: float) -> int:
    """Returns the smallest value of a field at which a measure that grows reaches `target`."""
    value = nearest(field, measure, target)
    return value if measure(field.set(value)) >= target else value + field.unit


def width_field(model: ModelConfig) -> Field:
    """Returns the width of a model, in multiples of the smallest one that its heads divide."""
    parts = list(_one_layer_models(model))
    units = (unit for unit in range(1, WIDEST_UNIT) if all(_fits(each, unit) for each in parts))
    unit = next(units, 1)  # with which a mixer that fits none says what it needs
    start = max(1, model.dim // unit)
    return Field("model.dim", unit, lambda value: dataclasses.replace(model, dim=value), start)


def growth_field(model: ModelConfig) -> Field | None:
    """Returns the option that bounds a state which grows with the context; None where none does."""
    blocks = zip(model.stack, serving_model(model).blocks(), strict=True)
    growing = [layer for layer, block in blocks if not block.mixer.constant_state]
    return next(_option_fields(model, growing), None)


def _one_layer_models(model: ModelConfig) -> Iterator[ModelConfig]:
    """Yields small models of one layer, which together have each layer of `model`."""
    bare = dataclasses.replace(model, layers=1, mlp=0, vocab=1, boundary=-1)
    patterns = {field: parse_pattern(text) for field, text in model.patterns.items()}
    first = {field: str(layers[0]) for field, layers in patterns.items()}
    for field, layers in patterns.items():
        for layer in dict.fromkeys(layers):
            yield dataclasses.replace(bare, **(first | {field: str(layer)}))


def _fits(model: ModelConfig, dim: int) -> bool:
    """Returns whether a model can be built at a width."""
    try:
        serving_model(dataclasses.replace(model, dim=dim))
    except UserError:
        return False
    return True


def _state_fields(model: ModelConfig) -> Iterator[Field]:
    """Yields the options that size the states of layers and are not given, then the width."""
    yield from _option_fields(model, parse_pattern(model.mixer))
    yield width_field(model)


def _option_fields(model: ModelConfig, layers: Iterable[Layer]) -> Iterator[Field]:
    for layer in dict.fromkeys(layers):
        option = resolve_mixer(layer.mixer).state_option
        if option and option not in dict(layer.options):
            yield Field(
                f"{layer.mixer}({option})", 1, functools.partial(_with_option, model, layer, option)
            )


def _with_option(model: ModelConfig, layer: Layer, option: str, value: int) -> ModelConfig:
    """Returns `model` with another option of all layers that are `layer`."""
    changed = dataclasses.replace(layer, options=(*layer.options, (option, value)))
    layers = (changed if each == layer else each for each in parse_pattern(model.mixer))
    return dataclasses.replace(model, mixer=",".join(map(str, layers)))
