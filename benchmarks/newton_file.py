"""The committed estimates of Newton's method on a TPU, and their page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.estimates import KIND as FORMS
from benchmarks.estimates import device_of, estimate_parts
from benchmarks.measure import BENCH
from benchmarks.newton import ADJOINT, STATES, forms_on
from benchmarks.newton_tables import compared, counted, newton_tables
from seqarch import records
from seqarch.costs.results import program_provenance
from seqarch.costs.time import ESTIMATED
from seqarch.errors import UserError
from seqarch.ops.newton import Iterations
from seqarch.records import Record, Results, Source
from seqarch.report.notices import revisions_text
from seqarch.report.pages import Page
from seqarch.runtime.progress import Say

KIND = "newton"  # of the file


def estimate(
    counts: Results, target: str, workers: int, say: Say, timeout: float
) -> Iterator[Results]:
    """Yields the estimates of each cell at each length, with the iterations of a benchmark.

    Args:
      counts: the benchmark.
      target: one TPU.
      workers: processes that compile at once.
      say: takes lines of progress.
      timeout: seconds that a form may take.

    Raises:
      UserError: for a target that has no estimates, and a benchmark without iterations.
    """
    found = counted(counts)
    if not found:
        raise UserError("no iterations are in these records; measure bench.py --only=newton")
    device, dim = device_of(target), counts.fact(BENCH, "sizes")["dim"]
    parts = forms_on(device.platform, found, dim)
    named = dict(zip(parts, found.items()))
    for name, measured in estimate_parts(parts, target, workers, say, timeout):
        (cell, tokens), taken = named[name]
        at = {"cell": cell, "tokens": tokens}
        given = [Record(KIND, metric, n, at) for metric, n in zip((STATES, ADJOINT), taken)]
        source = Source(name, KIND, provenance=program_provenance())
        yield Results(source, (*measured, *given))


def update(path: Path, target: str, found: Results) -> None:
    """Writes the estimates of a cell at a length into a file; those of others stay."""
    records.replace(path, [found], dict(kind=KIND, target=target), _key)


def _key(results: Results) -> tuple[str, int]:
    at = results.records[0].at
    return at["cell"], at["tokens"]


def newton_page(about: Mapping[str, Any], found: Sequence[Results]) -> Page:
    """Returns the page of a file: from how many tokens on Newton's method pays, and the times."""
    times, counts = {}, {}
    for results in found:
        for record in results.all(FORMS, "estimated_s"):
            at = record.at
            times[at["cell"], at["tokens"], at["pass"], at["method"]] = record
        taken = (results.all(KIND, metric)[0] for metric in (STATES, ADJOINT))
        counts[_key(results)] = Iterations(*(record.value for record in taken))
    title = f"Newton's method on {about['target']}, {ESTIMATED}"
    tables = newton_tables(compared(times, counts, "tpu"), about["target"])
    return Page(title, tables, made=f"Made at revision {revisions_text(found)}.")
