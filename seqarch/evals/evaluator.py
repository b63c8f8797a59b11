"""What an evaluator is, what it declares, and the only registry of evaluators.

An evaluator is a module with an `EVALUATOR`: a function from a loaded run to records, the metrics
that it measures, and the tables and figures that show them. The registry is all that names it.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from seqarch.errors import UserError, unknown
from seqarch.records import Fact, Record

EVALUATORS = {
    "quality": "seqarch.evals.quality:EVALUATOR",
    "context": "seqarch.evals.context:EVALUATOR",
    "accuracy": "seqarch.evals.accuracy:EVALUATOR",
    "flops": "seqarch.evals.flops:EVALUATOR",
    "speed": "seqarch.evals.speed:EVALUATOR",
    "memory": "seqarch.evals.memory:EVALUATOR",
}


class Metric(NamedTuple):
    """What a metric is.

    unit: a name in `seqarch.report.formats.FORMATS`, by which its values are written
    lower: whether lower is better; None where neither is
    """

    name: str
    title: str
    unit: str
    help: str
    lower: bool | None = None


class TableSpec(NamedTuple):
    """A table of some metrics: a column for each, or for each thing that it was measured at.

    facts: names of facts that the caption ends with
    """

    title: str
    caption: str
    metrics: tuple[str, ...]
    facts: tuple[str, ...] = ()


class FigureSpec(NamedTuple):
    """A curve of a metric for each member.

    over: the axis along which it was measured: "context", or that of an array
    log: whether the metric's axis is logarithmic
    """

    name: str
    title: str
    caption: str
    metric: str
    over: str
    log: bool = True


class Evaluator(NamedTuple):
    """An entry of EVALUATORS.

    evaluate: (run: LoadedRun, **options) -> records and facts; its defaults are the options'
    over_seeds: whether every seed of a member is measured and the mean is reported; else the first
    score: the metric of the tasks that it measures (`seqarch.tasks.base.Score`); None: of all
    """

    evaluate: Callable[..., Iterator[Record | Fact]]
    metrics: tuple[Metric, ...]
    tables: tuple[TableSpec, ...]
    figures: tuple[FigureSpec, ...] = ()
    over_seeds: bool = False
    score: str | None = None

    def metric(self, name: str) -> Metric:
        """Raises UserError where the evaluator declares no such metric."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown("metric", name, [metric.name for metric in self.metrics])


def find(name: str) -> Evaluator:
    """The evaluator of that name; raises UserError."""
    if name not in EVALUATORS:
        raise unknown("evaluator", name, EVALUATORS)
    module, _, attribute = EVALUATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises UserError for an evaluator that there is not, or an option that it lacks."""
    known = list(inspect.signature(find(name).evaluate).parameters)[1:]
    for option in options:
        if option not in known and not known:
            raise UserError(
                f"evals.{name} has {option!r}, and the evaluator {name} takes no options"
            )
        if option not in known:
            raise unknown(f"option of the evaluator {name}:", option, known)
