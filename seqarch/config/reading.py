"""Reads a Config from a ConfigDict or a plain dict, and writes it back.

No other module of configs imports ml_collections.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from seqarch.config.fields import Config, Evals
from seqarch.errors import UserError, unknown

EXAMPLES = {int: ("numbers", "(1024, 4096)"), str: ("names", "('tensorboard',)")}


def parse(given: ml_collections.ConfigDict | dict[str, Any]) -> Config:
    """Returns the config in a ConfigDict, or in a plain dict such as a run's config.json.

    Raises:
      UserError: for unknown fields, wrong types, and values that a field refuses.
    """
    if isinstance(given, ml_collections.ConfigDict):
        given = given.to_dict()
    return _build(Config, given, "")


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the plain dict, ready for JSON, that `parse` reads back.

    Infinity, which JSON does not have, is the text "inf".
    """
    return json.loads(json.dumps(dataclasses.asdict(config)), parse_constant=lambda _: "inf")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one with dotted names: {"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _build(cls: type, given: dict[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise unknown("config field", where + name, [where + known for known in fields])
    values = {}
    for name, value in given.items():
        values[name] = _convert(fields[name].type, value, where + name)
    return cls(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            known = ", ".join(field.name for field in dataclasses.fields(kind))
            raise UserError(f"config field {where} is {value!r}; it has fields: {known}")
        return _build(kind, value, where + ".")
    if kind == Evals:
        return _options(value, where)
    if typing.get_origin(kind) is tuple:
        return _several(typing.get_args(kind)[0], value, where)
    if kind is float and value == "inf":
        return math.inf
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and type(value) is int:
        return _in_range(value, where)
    if type(value) is not kind:
        raise UserError(
            f"config field {where} is {value!r}, a {type(value).__name__}; expected {kind.__name__}"
        )
    return value


def _several(kind: type, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        what, example = EXAMPLES[kind]
        raise UserError(
            f"config field {where} is {value!r}; expected several {what}, such as {example}"
        )
    return tuple(_convert(kind, item, where) for item in value)


def _options(given: Any, where: str) -> Evals:
    """Returns the options of each evaluator, with the lists of JSON as tuples."""
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise UserError(
            f"config field {where} is {given!r}; give options by evaluator, such as "
            "dict(quality=dict())"
        )
    found: dict[str, dict[str, Any]] = {}
    for name, options in given.items():
        found[name] = {}
        for key, value in options.items():
            found[name][key] = _option(value, f"{where}.{name}.{key}")
    return found


def _option(value: Any, where: str) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_option(each, where) for each in value)
    return _in_range(value, where) if type(value) is int else value


def _in_range(value: int, where: str) -> int:
    """Returns `value`; raises UserError from 2^31 on, except for seeds, which check themselves."""
    if abs(value) >= 2**31 and not where.startswith("seed."):
        raise UserError(f"config field {where} is {value}; give a number below 2^31")
    return value
