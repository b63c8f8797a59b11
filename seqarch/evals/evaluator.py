"""Evaluators: what each declares, and the registry EVALUATORS, the only place that names them.

An evaluator is a module with an `EVALUATOR`: a function from a loaded run to records, the metrics
that it measures, and the tables and figures that show them.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from seqarch.errors import UserError, unknown
from seqarch.files import has_shape
from seqarch.patterns import check_option
from seqarch.records import Fact, Record

EVALUATORS = {
    "quality": "seqarch.evals.quality:EVALUATOR",
    "context": "seqarch.evals.context:EVALUATOR",
    "accuracy": "seqarch.evals.accuracy:EVALUATOR",
    "spans": "seqarch.evals.spans:EVALUATOR",
    "flops": "seqarch.evals.flops:EVALUATOR",
    "speed": "seqarch.evals.speed:EVALUATOR",
    "memory": "seqarch.evals.memory:EVALUATOR",
}
TRAINING, SECONDS = "training", "seconds"  # a fact of each run: the time that its steps took
BY_CONTEXT = {"context": int}  # what a metric is measured at, of one for each context


class Metric(NamedTuple):
    """A number that an evaluator measures.

    Attributes:
      name: that of its records.
      title: its name in tables.
      unit: a name in `seqarch.report.formats.FORMATS`, by which its values are written.
      help: a sentence that says what it is.
      lower: whether lower is better; None where neither is.
      at: the shape (`seqarch.files.has_shape`) of what it is measured at, such as
        {"context": int}, or {"document": [str]} of an array; {} where it is one number.
      spread: name of the metric that is half the range of repetitions, as a share of this one,
        their median; "" where it is not repeated.
    """

    name: str
    title: str
    unit: str
    help: str
    lower: bool | None = None
    at: Mapping[str, Any] = {}
    spread: str = ""

    def covers(self, at: Mapping[str, Any]) -> bool:
        """Returns whether `at` is what it is measured at."""
        return len(at) == len(self.at) and has_shape(at, self.at)


class TableSpec(NamedTuple):
    """A table of metrics, with a column for each, or for each place that it was measured at.

    Attributes:
      title: the table's title.
      caption: what stands above it.
      metrics: names of metrics.
      facts: names of facts that the caption ends with.
      texts: facts that are columns: the title of each by its name.
    """

    title: str
    caption: str
    metrics: tuple[str, ...]
    facts: tuple[str, ...] = ()
    texts: Mapping[str, str] = {}


class FigureSpec(NamedTuple):
    """A figure with a curve of one metric for each member.

    Attributes:
      name: that of its file.
      title: the question that it answers.
      caption: what stands below it.
      metric: name of the metric.
      over: the axis along which it was measured: "context", or that of an array.
      log: whether the metric's axis is logarithmic.
    """

    name: str
    title: str
    caption: str
    metric: str
    over: str
    log: bool = True


class Evaluator(NamedTuple):
    """An entry of EVALUATORS.

    Attributes:
      evaluate: (run: LoadedRun, **options) -> records and facts; its defaults are the options'.
      metrics: what it measures.
      tables: tables that show its metrics.
      figures: figures that show its metrics.
      over_seeds: whether every seed of a member is measured and the mean is reported; otherwise
        the first seed is.
      score: it measures the tasks that are scored by this metric (`seqarch.tasks.base.Score`);
        None: all tasks.
      check: (config, **options): raises UserError for options that it cannot measure, so that this
        is told before a run is trained; None: it can measure every value of the right type.
    """

    evaluate: Callable[..., Iterator[Record | Fact]]
    metrics: tuple[Metric, ...]
    tables: tuple[TableSpec, ...]
    figures: tuple[FigureSpec, ...] = ()
    over_seeds: bool = False
    score: str | None = None
    check: Callable[..., None] | None = None

    def metric(self, name: str) -> Metric:
        """Returns the metric `name`.

        Raises:
          UserError: where the evaluator declares no such metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown("metric", name, [metric.name for metric in self.metrics])


def find(name: str) -> Evaluator:
    """Returns the evaluator `name`.

    Raises:
      UserError: for a name that is not in EVALUATORS.
    """
    if name not in EVALUATORS:
        raise unknown("evaluator", name, EVALUATORS)
    return pkgutil.resolve_name(EVALUATORS[name])


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown evaluator, for an option that it lacks, and for its type."""
    _, *parameters = inspect.signature(find(name).evaluate).parameters.values()
    known = {each.name: each.annotation for each in parameters}
    for option, value in options.items():
        if option not in known and not known:
            raise UserError(
                f"evals.{name} has {option!r}, and the evaluator {name} takes no options"
            )
        if option not in known:
            raise unknown(f"option of the evaluator {name}:", option, known)
        check_option(f"evals.{name}.{option} is {value!r}", value, known[option], least=0)
