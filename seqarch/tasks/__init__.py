"""The registry of tasks, on which models are trained and scored.

    task = make_task(config)                  # config.task: "text", "mqar(pairs=8,length=128)"
    batch = next(task.batches("train", seed=0, batch=64))

A new task is a file with a subclass of `seqarch.tasks.probe.Probe`, and an entry in TASKS.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

from seqarch.errors import UserError, unknown
from seqarch.patterns import check_option, read_entry

if TYPE_CHECKING:
    from seqarch.config import Config
    from seqarch.tasks.base import Task
    from seqarch.tasks.batch import BatchLayout

TASKS = {
    "text": "seqarch.tasks.text.task:Text",
    "mqar": "seqarch.tasks.mqar:MQAR",
    "recall": "seqarch.tasks.recall:Recall",
    "induction": "seqarch.tasks.induction:Induction",
    "flipflop": "seqarch.tasks.flipflop:FlipFlop",
    "context_recall": "seqarch.tasks.context_recall:ContextRecall",
    "noisy_recall": "seqarch.tasks.noisy_recall:NoisyRecall",
    "fuzzy_recall": "seqarch.tasks.fuzzy_recall:FuzzyRecall",
    "memorise": "seqarch.tasks.memorise:Memorise",
    "needle": "seqarch.tasks.needle:Needle",
    "selective_copy": "seqarch.tasks.selective_copy:SelectiveCopy",
    "copy": "seqarch.tasks.copy:Copy",
    "parity": "seqarch.tasks.parity:Parity",
    "modular_addition": "seqarch.tasks.modular_addition:ModularAddition",
    "group": "seqarch.tasks.group:Group",
    "arithmetic": "seqarch.tasks.arithmetic:Arithmetic",
    "reverse": "seqarch.tasks.reverse:Reverse",
    "sort": "seqarch.tasks.sort:Sort",
    "postfix": "seqarch.tasks.postfix:Postfix",
    "span_corruption": "seqarch.tasks.text.span_corruption:SpanCorruption",
}


def check_name(text: str) -> str:
    """Returns the name in TASKS of a task such as "mqar(pairs=8)"; imports nothing.

    Raises:
      UserError: where `text` cannot be read, or names an unknown task.
    """
    name = read_entry(text, "task").mixer
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return name


def find(text: str) -> "type[Task]":
    """Returns the class of a task such as "mqar(pairs=8)"; raises UserError as `check_name`."""
    return pkgutil.resolve_name(TASKS[check_name(text)])


def options(text: str) -> dict[str, Any]:
    """Returns the options of a task such as "mqar(pairs=8)".

    Raises:
      UserError: for an option that the task does not have, and for a value of another type.
    """
    known, given = find(text).options(), dict(read_entry(text, "task").options)
    name = check_name(text)
    for option, value in given.items():
        if not known:
            raise UserError(f"the task {name} takes no options, and {text!r} gives {option!r}")
        if option not in known:
            raise unknown(f"option of task {name}", option, known)
        check_option(f"{name}({option}={value})", value, known[option])
    return given


def layout(text: str, *, encodes: bool = False) -> "BatchLayout":
    """Returns which arrays the batches of a task such as "mqar(pairs=8)" have.

    Args:
      text: the task.
      encodes: whether they are for an encoder-decoder.

    Raises:
      UserError: as `options` does, and where an encoder-decoder is given a task without a source.
    """
    return find(text).layout(**options(text), **_split(text, encodes))


def _split(text: str, encodes: bool) -> dict[str, bool]:
    """Returns the argument of a task that it is given for an encoder-decoder."""
    if not encodes:
        return {}
    if not find(text).has_source:
        named = ", ".join(name for name in TASKS if find(name).has_source)
        raise UserError(
            f"model.kind is 'encdec', and the task {text} has no source that an encoder could "
            f"read; set model.kind=lm and model.encoder='', or give one of the tasks {named}"
        )
    return {"split": True}


def make_task(config: "Config") -> "Task":
    """Returns the task of a config; the default text is fetched on first use.

    Raises:
      UserError: for an unknown option, for an impossible task, where `config.model.vocab` or
        `config.length` differ from the task's, for an encoder-decoder on a task without a source,
        and for a run that is to stop when its task is solved, where the task does not say when it
        is.
    """
    if config.eval.stop_when_solved and find(config.task).solved is None:
        raise UserError(
            f"eval.stop_when_solved is True, and the task {config.task} has no score from which it "
            "is solved; set it to False"
        )
    split = _split(config.task, config.model.encodes)
    return find(config.task).from_config(config, **options(config.task), **split)
