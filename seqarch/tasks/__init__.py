"""What a model is trained on and scored by, and the only registry of tasks.

    task = make_task(config)                  # config.task: "text", "mqar(pairs=8,length=128)"
    batch = next(task.batches("train", seed=0, batch=64))

A new task is one file with a subclass of `seqarch.tasks.base.Probe`, and one line in TASKS.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seqarch.errors import UserError, unknown
from seqarch.patterns import check_option, read_entry

if TYPE_CHECKING:
    from seqarch.config import Config
    from seqarch.tasks.base import Task

TASKS = {
    "text": "seqarch.tasks.text.task:Text",
    "mqar": "seqarch.tasks.mqar:MQAR",
}


def check_name(text: str) -> str:
    """Returns the name in TASKS of a task such as "mqar(pairs=8)"; imports nothing.

    Raises:
      UserError: where `text` is no such call, or there is no such task.
    """
    name = read_entry(text, "task").mixer
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return name


def find(text: str) -> "type[Task]":
    """Returns the class of a task such as "mqar(pairs=8)"; raises UserError."""
    module, _, attribute = TASKS[check_name(text)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def options(text: str) -> dict[str, Any]:
    """Returns the options that `text` gives; raises UserError for one that the task lacks."""
    known, given = find(text).options(), dict(read_entry(text, "task").options)
    name = check_name(text)
    for option, value in given.items():
        if not known:
            raise UserError(f"the task {name} takes no options, and {text!r} gives {option!r}")
        if option not in known:
            raise unknown(f"option of task {name}", option, known)
        check_option(f"{name}({option}={value})", value, known[option])
    return given


def make_task(config: "Config") -> "Task":
    """Returns the task of a config; of text, its data are fetched where they are not there yet.

    Raises:
      UserError: for an unknown option, for an impossible task, and where `config.model.vocab` or
        `config.length` are not the task's.
    """
    return find(config.task).from_config(config, **options(config.task))
