"""Layer patterns: reads the mixers of a model, with their options, from the text of a config."""

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Any

from seqarch.errors import UserError, unknown
from seqarch.mixers import resolve_mixer
from seqarch.types import DTypeLike

# The parameters of a mixer's constructor that are no options, since the model gives them.
MODELS_OWN = ("self", "dim", "dtype", "rngs")

SHARED = "shared"  # before a layer whose parameters all its repetitions have in common


@dataclasses.dataclass(frozen=True)
class Layer:
    """One entry of a layer pattern.

    mixer: a name in MIXERS, or `package.module:Class`
    options: (name, value) of each keyword option
    shared: whether all layers of the model that equal this one have their parameters in common
    """

    mixer: str
    options: tuple[tuple[str, Any], ...] = ()
    shared: bool = False

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options)
        text = f"{self.mixer}({options})" if options else self.mixer
        return f"{SHARED} {text}" if self.shared else text


@dataclasses.dataclass(frozen=True)
class Stack:
    """The layers of a model from the bottom up: `period` repeated `repeats` times, then `tail`."""

    period: tuple[Layer, ...]
    repeats: int
    tail: tuple[Layer, ...] = ()

    def __iter__(self):
        return iter(self.period * self.repeats + self.tail)

    @property
    def shared(self) -> tuple[Layer, ...]:
        """The layers with parameters in common, each of them once."""
        return tuple(dict.fromkeys(layer for layer in self if layer.shared))


def parse_pattern(text: str) -> tuple[Layer, ...]:
    """Returns the layers of a pattern, such as "mamba,attention(window=64),my.module:MyMixer".

    In "mamba,mamba,shared attention" the attention layers of all repetitions have one set of
    parameters.

    Raises:
      UserError: where it cannot be read, or a mixer or an option is unknown.
    """
    layers = read_pattern(text)
    for layer in layers:
        _check_options(layer)
    return layers


def read_pattern(text: str) -> tuple[Layer, ...]:
    """Returns the layers of a pattern without looking up or importing their mixers.

    Raises:
      UserError: where the pattern cannot be read.
    """
    entries = [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]
    if not entries:
        raise UserError("model.mixer is empty; name at least one mixer, such as 'mamba'")
    return tuple(read_entry(entry) for entry in entries)


def options_of(mixer: str) -> dict[str, Any]:
    """Returns the options that a mixer's constructor takes, with their annotations."""
    parameters = inspect.signature(resolve_mixer(mixer).__init__).parameters
    return {name: each.annotation for name, each in parameters.items() if name not in MODELS_OWN}


def read_entry(entry: str, kind: str = "layer") -> Layer:
    """Returns the name and the options of a text "name(option=value,...)".

    Those of a shared layer are sorted, so that equal layers are one.

    Args:
      entry: such as "attention(window=64)", or, for a layer, "shared attention(window=64)".
      kind: "layer" or "task", for the error.

    Raises:
      UserError: where `entry` cannot be read.
    """
    before = rf"(?:({SHARED})\s+)?" if kind == "layer" else "()"
    match = re.fullmatch(before + r"([\w.:]+)(?:\((.*)\))?", entry.strip())
    if not match:
        named, more = (f"a {kind}'s name", "")
        if kind == "layer":
            named, more = "a mixer's name", f", or '{SHARED}' before either"
        raise UserError(
            f"cannot read the {kind} {entry!r}; write {named}, or name(option=value, ...){more}"
        )
    shared, name, text = match.groups()
    if kind == "layer" and name == SHARED:
        raise UserError(f"{SHARED!r} stands before a layer, as in '{SHARED} attention'")
    options: dict[str, Any] = {}
    for item in filter(None, (text or "").split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise UserError(
                f"cannot read the option {item.strip()!r} of {name}; write option=value"
            )
        if key in options:
            raise UserError(f"{entry.strip()} has the option {key!r} twice; give it once")
        options[key] = literal(value)
    items = sorted(options.items()) if shared else options.items()
    return Layer(name, tuple(items), bool(shared))


def _check_options(layer: Layer) -> None:
    accepted = options_of(layer.mixer)
    for key, value in layer.options:
        if key not in accepted:
            raise unknown(f"option of mixer {layer.mixer}", key, accepted)
        check_option(f"{layer.mixer}({key}={value})", value, accepted[key])


def check_option(where: str, value: Any, annotation: Any, least: int = 1) -> None:
    """Checks the value of an option by its annotation, if that is of plain types or a dtype.

    Args:
      where: the option, for the error.
      value: to check.
      annotation: of the parameter.
      least: the smallest integer that it may be.

    Raises:
      UserError: where `value` is of another type, or is an int outside [least, 2^31).
    """
    if annotation in (DTypeLike, DTypeLike | None):
        if value not in (None, "float32", "bfloat16"):
            raise UserError(f"{where}: give float32 or bfloat16")
        return
    if typing.get_origin(annotation) is Sequence:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: give several values in parentheses, such as (64, 128)")
        for each in value:
            check_option(where, each, *typing.get_args(annotation), least)
        return
    kinds = typing.get_args(annotation) or (annotation,)
    if not all(kind in (int, float, str, bool, type(None)) for kind in kinds):
        return
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        names = ["None" if kind is type(None) else kind.__name__ for kind in kinds]
        raise UserError(f"{where}: expected {' or '.join(names)}")
    if int in kinds and value is not None and not least <= value < 2**31:
        raise UserError(f"{where}: give a number of at least {least}, below 2^31")


def literal(text: str) -> Any:
    """Returns a value that is written as in Python, or a text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
