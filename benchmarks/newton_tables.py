"""What was measured of Newton's method, and from how many tokens on it pays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import BENCH
from benchmarks.newton import ADJOINT, CELLS, CONVERGED, GROUP, NEWTON, STATES
from benchmarks.timings import PLACE, Promise, Timings, cases_of
from seqarch.ops.forms import family
from seqarch.ops.newton import Iterations
from seqarch.records import Record, Results
from seqarch.report.formats import format_rate
from seqarch.report.tables import Column, Row, Table

Lengths = Mapping[tuple[str, int], Iterations]  # iterations by cell and tokens


class Compared(NamedTuple):
    """The forms of a cell in a pass over so many tokens.

    Attributes:
      cell, tokens, pass_: which.
      used: the form in use on the device.
      iterations: of Newton's method; None where they did not converge.
      times: the record of each form's seconds.
    """

    cell: str
    tokens: int
    pass_: str
    used: str
    iterations: Iterations | None
    times: Mapping[str, Record]

    @property
    def ratio(self) -> float | None:
        """Seconds of Newton's method / those of the form in use; None where one has none."""
        above, below = (self.times[form].value for form in (NEWTON, self.used))
        return None if above is None or below is None else above / below


def newton_promises(timings: Timings) -> Iterator[Promise]:
    """Yields the seconds of Newton's method / those of the form in use, without targets."""
    for group, form, shape, pass_ in timings.cases:
        if group != GROUP:
            continue
        cell, method, _ = _place(form, shape)
        if method == NEWTON:
            used = CELLS[cell].forms.auto(family(timings.platform))
            of = lambda form, at=(shape, pass_): timings.get("seconds", GROUP, form, *at)
            value = lambda of=of, form=form, used=f"{cell}, {used}": of(form) / of(used)
            yield Promise(f"{cell}, {pass_}, {shape}: {NEWTON} / {used}, seconds", value)


def counted(results: Results) -> dict[tuple[str, int], Iterations]:
    """Returns the iterations of a benchmark that converged, by cell and tokens."""
    found = {}
    for record in results.all(BENCH, CONVERGED):
        if record.value:
            cell, _, tokens = _place(record.at["form"], record.at["shape"])
            counts = (results.value(BENCH, each, **record.at) for each in (STATES, ADJOINT))
            found[cell, tokens] = Iterations(*counts)
    return found


def measured(results: Results) -> list[Compared]:
    """Returns what a benchmark measured of Newton's method."""
    platform = family(results.source.provenance["devices"]["platform"])
    times = {}
    for group, form, shape, pass_ in cases_of(results):
        if group == GROUP:
            cell, method, tokens = _place(form, shape)
            at = dict(zip(PLACE, (group, form, shape, pass_)))
            times[cell, tokens, pass_, method] = results.find(BENCH, "seconds", **at)
    return compared(times, counted(results), platform)


def _place(form: str, shape: str) -> tuple[str, str, int]:
    """Returns the cell, the form and the tokens of a case."""
    cell, _, method = form.partition(", ")
    return cell, method, int(shape.rpartition("T")[2])


def compared(
    times: Mapping[tuple[str, int, str, str], Record], counts: Lengths, platform: str
) -> list[Compared]:
    """Returns the forms of each cell in each pass over so many tokens.

    Args:
      times: by cell, tokens, pass and form.
      counts: of the iterations that converged.
      platform: "cpu", "gpu" or "tpu".
    """
    found = []
    for at in dict.fromkeys(each[:3] for each in times):
        forms = {each[3]: record for each, record in times.items() if each[:3] == at}
        used = CELLS[at[0]].forms.auto(platform)
        found.append(Compared(*at, used, counts.get(at[:2]), forms))
    return found


def newton_tables(found: Sequence[Compared], device: str) -> list[Table]:
    """Returns from how many tokens on Newton's method pays, and the times that say so."""
    return [_summary(found, device), _times(found)]


def _summary(found: Sequence[Compared], device: str) -> Table:
    rows = []
    for cell, pass_ in dict.fromkeys((each.cell, each.pass_) for each in found):
        own = sorted(each for each in found if (each.cell, each.pass_) == (cell, pass_))
        rows.append(Row((device, cell, pass_, _from(own))))
    columns = Column("device"), Column("cell"), Column("pass"), Column("pays from tokens", "size")
    caption = "The fewest tokens of a row from which on Newton's method takes less time."
    return Table("Where Newton's method pays", caption, columns, tuple(rows))


def _from(own: Sequence[Compared]) -> str:
    """Returns the fewest tokens from which on all ratios are below 1, in words."""
    slow = [each.tokens for each in own if each.ratio is None or each.ratio >= 1]
    fast = [each.tokens for each in own if each.tokens > max(slow, default=0)]
    return f"{fast[0]:,}" if fast else f"none up to {own[-1].tokens:,}"


def _times(found: Sequence[Compared]) -> Table:
    forms = dict.fromkeys(form for each in found for form in each.times if form != NEWTON)
    columns = [Column("cell"), Column("tokens", "count"), Column("pass"), Column("iterations")]
    columns += [Column(f"{form} ms", "size") for form in (*forms, NEWTON)]
    columns += [Column("form in use"), Column("newton / form in use", "size")]
    rows = []
    for each in found:
        times = [_milliseconds(each.times.get(form)) for form in (*forms, NEWTON)]
        ratio = None if each.ratio is None else f"{each.ratio:.3g}"
        place = each.cell, each.tokens, each.pass_, _iterations(each)
        rows.append(Row((*place, *times, each.used, ratio)))
    caption = (
        "One row in float32, with weights as the mixer initialises them and inputs of unit "
        "variance. Iterations of a training pass are those of the states and of their cotangents."
    )
    return Table("Newton's method", caption, tuple(columns), tuple(rows))


def _iterations(each: Compared) -> str:
    if each.iterations is None:
        return "did not converge"
    shown = each.iterations[:1] if each.pass_ == "forward" else each.iterations
    return " + ".join(map(str, shown))


def _milliseconds(record: Record | None) -> str | None:
    if record is None or record.value is None:
        return record and record.note
    return format_rate(1e3 * record.value)
