"""Configs with other values of some fields, which are given by dotted name."""

from collections.abc import Mapping
from typing import Any

from seqarch import tasks
from seqarch.config import Config, flatten, parse, to_dict
from seqarch.errors import UserError, unknown_field
from seqarch.tasks.probe import Probe

Fields = Mapping[str, Any]  # values by the dotted names of fields, such as {"optim.lr": 1e-3}

EVALS = "evals."  # options of evaluators, of which a config names only some


def values_of(config: Config) -> dict[str, Any]:
    """Returns the values of all fields of a config by dotted name."""
    return flatten(to_dict(config))


def override(name: str, value: Any) -> str:
    """Returns the flag that gives a field a value."""
    return f"--config.{name}={tuple(value) if isinstance(value, list) else value}"


def check_field(name: str, config: Config) -> None:
    """Raises UserError where a config has no field `name`, with the nearest one that it has."""
    known = values_of(config)
    if name in known or name.startswith(EVALS):
        return
    if below := [each for each in known if each.startswith(f"{name}.")]:
        raise UserError(f"config field {name} is a group of fields; give one of {', '.join(below)}")
    raise unknown_field(name, known)


def with_fields(base: Config, fields: Fields) -> Config:
    """Returns `base` with other values of some fields.

    Where `fields` give a probe as the task, the length, the vocabulary and the options of the
    accuracy that belong to the task of `base` become those of the probe, unless `fields` give them.

    Raises:
      UserError: for unknown fields, wrong types, and values that a field refuses.
    """
    for name in fields:
        check_field(name, base)
    tree = to_dict(base)
    for name, value in (_of_task(base, fields) | dict(fields)).items():
        *groups, leaf = name.split(".")
        level = tree
        for group in groups:
            level = level.setdefault(group, {})
        level[leaf] = value
    return parse(tree)


def _of_task(base: Config, fields: Fields) -> dict[str, Any]:
    """Returns the fields that follow from the task that `fields` give."""
    task = fields.get("task")
    if not isinstance(task, str) or not issubclass(tasks.find(task), Probe):
        return {}
    probe = tasks.find(task)(**tasks.options(task))
    made: dict[str, Any] = {"length": probe.length, "model.vocab": probe.vocab}
    accuracy = base.evals.get("accuracy", {})
    if lengths := accuracy.get("lengths"):
        made["evals.accuracy.lengths"] = [probe.length * each // base.length for each in lengths]
    if "sizes" in accuracy:
        made["evals.accuracy.sizes"] = list(probe.sizes)
    return made
