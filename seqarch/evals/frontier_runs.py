"""The runs of a sweep over states and sizes of a task, as points of a frontier.

The runs have one setting: they differ in mixer, width, learning rate, seed, and in the size of the
task (`Probe.size`, such as the number of pairs). They are measured by the evaluators of accuracy
and memory.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from seqarch import tasks
from seqarch.config import flatten
from seqarch.errors import UserError
from seqarch.patterns import Layer, read_entry, read_pattern
from seqarch.records import UNMEASURED, Record, Results
from seqarch.stats.frontier import Point
from seqarch.tasks.probe import Probe

VARIED = ("task", "model.mixer", "model.dim", "optim.lr", "seed", "eval", "evals", *UNMEASURED)
FIELDS = ("task", "length", "model.mixer", "model.dim", "model.dtype", "optim.lr")  # that all have


def is_sweep(results: Sequence[Results]) -> bool:
    """Returns whether runs are those of one probe, with several states and of several sizes."""
    try:
        points = read_points(results)
    except UserError:
        return False
    counts = (len({getattr(each, name) for each in points}) for name in ("state", "size"))
    return all(count > 1 for count in counts)


def read_points(results: Sequence[Results]) -> list[Point]:
    """Returns a point for each run; of models that always diverged there are none.

    Raises:
      UserError: where the runs are not those of one setting, or lack a measurement.
    """
    runs = [each for each in results if each.source.kind == "run"]
    _check_setting(runs)
    states = {model_of(each): state for each in runs if (state := _state(each))}
    found = []
    for each in runs:
        record = each.find("accuracy", "accuracy")
        if record is None or (record.value is not None and model_of(each) not in states):
            lacking = "accuracy" if record is None else "the bytes of its state"
            raise UserError(
                f"{each.source.member} lacks {lacking}; measure it with the evaluators accuracy "
                "and memory, as configs/sweeps/frontier.py does"
            )
        if model_of(each) in states:
            found.append(_point(each, record, states[model_of(each)]))
    return found


def mixer_of(pattern: str) -> str:
    """Returns what runs are grouped by: a layer pattern without what sizes its mixers.

    Whole numbers size a mixer, such as a window, a number of heads or a width. Other options make
    it another one.
    """
    layers = []
    for layer in read_pattern(pattern):
        kept = [each for each in layer.options if type(each[1]) is not int and each[0] != "method"]
        layers.append(str(dataclasses.replace(layer, options=tuple(kept))))
    return ",".join(layers)


def size_of(task: str) -> tuple[str, float]:
    """Returns the name and the value of the option that makes a probe harder.

    Raises:
      UserError: where the task is no probe, or has no such option.
    """
    probe = tasks.find(task)
    if not issubclass(probe, Probe) or not probe.size:
        raise UserError(f"the task {task} has no size; a frontier is that of a probe with one")
    return probe.size, getattr(probe(**tasks.options(task)), probe.size)


def size_name(results: Sequence[Results]) -> str:
    """Returns the name of the option that makes the task of runs harder."""
    first = next(each.source for each in results if each.source.kind == "run")
    return size_of(first.config["task"])[0]


def shared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what all runs of a sweep have in common, of the config of one."""
    shared: dict[str, Any] = {"task": task_without(config["task"], size_of(config["task"])[0])}
    for field, value in config.items():
        if isinstance(value, Mapping):
            value = {name: value[name] for name in value if f"{field}.{name}" not in VARIED}
        if field not in VARIED:
            shared[field] = value
    return shared


def task_without(text: str, size: str) -> str:
    """Returns a task without the option that makes it harder."""
    entry = read_entry(text, "task")
    return str(Layer(entry.mixer, tuple(each for each in entry.options if each[0] != size)))


def _check_setting(runs: Sequence[Results]) -> None:
    """Raises UserError where runs differ in more than VARIED and the size of the task."""
    if not runs:
        raise UserError("there are no runs; give the runs of a sweep")
    settings = []
    for each in runs:
        flat = flatten(each.source.config)
        if lacking := [field for field in FIELDS if field not in flat]:
            raise UserError(f"{each.source.member} is no run of a probe: it has no {lacking[0]}")
        name = size_of(flat["task"])[0]
        varied = (*VARIED, name)  # a task's length is a field of the config too
        kept = {field: flat[field] for field in flat if not _below(field, varied)}
        settings.append(kept | {"task": task_without(flat["task"], name)})
    first = settings[0]
    for each, setting in zip(runs, settings, strict=True):
        if differs := [name for name in first if setting.get(name) != first[name]]:
            raise UserError(
                f"{runs[0].source.member} and {each.source.member} differ in {differs[0]}; a "
                "frontier has one setting: give runs that differ in mixer, width, learning rate, "
                "seed and size of the task"
            )


def _below(field: str, groups: Sequence[str]) -> bool:
    return any(field == each or field.startswith(f"{each}.") for each in groups)


def model_of(results: Results) -> str:
    """Returns a text that runs of models with the same states have in common."""
    config = results.source.config
    return json.dumps([config["model"], config["length"]], sort_keys=True)


def _state(results: Results) -> int | None:
    return results.value("memory", "state_bytes", context=results.source.config["length"])


def _point(results: Results, accuracy: Record, state: int) -> Point:
    config = results.source.config
    return Point(
        mixer=mixer_of(config["model"]["mixer"]),
        model=model_of(results),
        size=size_of(config["task"])[1],
        state=state,
        accuracy=accuracy.value,
        n=accuracy.n,
        lr=config["optim"]["lr"],
        seed=results.source.seeds.get("model", 0),
    )
