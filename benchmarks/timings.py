"""The values of a benchmark, and what is promised of them."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.measure import BENCH
from benchmarks.ops import OPS
from seqarch.ops.forms import family
from seqarch.records import Record, Results

# Timings of one program differ by this factor on a shared machine: equal times may be so far apart.
RUN_NOISE = 1.3
PLACE = ("group", "form", "shape", "pass")  # what a record is measured at


class Promise(NamedTuple):
    """A ratio before it is computed; `value()` raises KeyError where a part was not measured."""

    name: str
    value: Callable[[], float]
    least: float | None = None
    most: float | None = None


class Timings:
    """The values of a benchmark, by metric and case."""

    def __init__(self, results: Results):
        self.cases = cases_of(results)
        self._values = {(each.metric, *place(each)): each.value for each in results.records}
        self.sizes = results.fact(BENCH, "sizes")
        self.platform = results.source.provenance["devices"]["platform"]

    def get(self, metric: str, group: str, form: str, shape: str, pass_: str) -> float:
        """Returns a value; raises KeyError where it was not measured."""
        value = self._values[metric, group, form, shape, pass_]
        if value is None:
            raise KeyError(metric)
        return value

    def best(self, group: str) -> str:
        """Returns the form that training uses on the platform of the benchmark."""
        return OPS[group].forms.auto(family(self.platform))


def place(record: Record) -> tuple[str, str, str, str]:
    """Returns the group, form, shape and pass of a record."""
    return tuple(record.at[name] for name in PLACE)


def cases_of(results: Results) -> list[tuple[str, str, str, str]]:
    """Returns the places of a benchmark's records, each once."""
    return list(dict.fromkeys(map(place, results.records)))
