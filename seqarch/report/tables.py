"""Tables as values, whose columns have units; seqarch.report.render makes text of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from seqarch.errors import printable_line
from seqarch.evals import evaluator
from seqarch.evals.evaluator import TableSpec
from seqarch.report.formats import Repeated
from seqarch.report.members import Member, places

T = TypeVar("T")

NAMED = 64  # coordinates of an axis up to which each has a column


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      title: its heading.
      unit: a name in `seqarch.report.formats.FORMATS`.
    """

    title: str
    unit: str = "text"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      cells: a value for each column; None where there is none.
      kind: "run" or "baseline".
    """

    cells: tuple[Any, ...]
    kind: str = "run"


class Table(NamedTuple):
    """A table.

    Attributes:
      title: stands above it.
      caption: stands between the title and the table.
      columns: its columns.
      rows: its rows, with a cell for each column.
      folded: whether a page shows it on demand only.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    folded: bool = False


class Cells(NamedTuple):
    """A column, and a function that returns its cell for a member."""

    column: Column
    of: Callable[[Member], Any]


NAME = Cells(Column("model"), lambda member: f"{member.name} {member.mark}".rstrip())


def member_table(
    title: str, caption: str, members: Sequence[Member], cells: Sequence[Cells]
) -> Table | None:
    """Returns a table with a row for each member that has more to show than its first cell.

    It is None where no member has.
    """
    made = [Row(tuple(each.of(member) for each in cells), member.kind) for member in members]
    rows = tuple(row for row in made if any(cell not in (None, "") for cell in row.cells[1:]))
    return Table(title, caption, tuple(each.column for each in cells), rows) if rows else None


def found_cell(title: str, unit: str, found: Mapping[str, T], of: Callable[[T], Any]) -> Cells:
    """Returns the column of what `of` takes from what is found of members, by their names."""

    def value(member: Member) -> Any:
        return of(found[member.name]) if member.name in found else None

    return Cells(Column(title, unit), value)


def evaluator_table(spec: TableSpec, name: str, members: Sequence[Member]) -> Table | None:
    """Returns a table that the evaluator `name` declares; None where no member has its records."""
    cells = [_fact_cell(title, name, fact) for fact, title in spec.texts.items()]
    for metric in spec.metrics:
        cells += metric_cells(members, name, metric)
    caption = " ".join([spec.caption, *(shared_fact(members, name, fact) for fact in spec.facts)])
    return member_table(spec.title, caption.strip(), members, [NAME, *cells])


def _fact_cell(title: str, name: str, fact: str) -> Cells:
    return Cells(Column(title), lambda member: member.fact(name, fact))


def metric_cells(members: Sequence[Member], name: str, metric: str) -> list[Cells]:
    """Returns a column for each place that a metric was measured at.

    An array with one axis has a column for each coordinate.
    """
    declared = evaluator.find(name).metric(metric)
    made = []
    for at in places(members, name, metric):
        axes = {axis: values for axis, values in at.items() if isinstance(values, (list, tuple))}
        if not axes:
            made.append(metric_cell(declared.title, declared.unit, name, metric, at))
        elif len(axes) == 1 and len(at) == 1:
            made += _coordinates(*axes.items(), declared.unit, name, metric)
    return made


def metric_cell(title: str, unit: str, name: str, metric: str, at: Mapping[str, Any]) -> Cells:
    """Returns the column of a metric at one place, such as "state @ 4,096"."""
    place = ", ".join(_place(axis, value) for axis, value in at.items())
    shown = f"{title} @ {place}" if place else title
    return Cells(Column(shown, unit), lambda member: _measured(member, name, metric, at))


def _measured(member: Member, name: str, metric: str, at: Mapping[str, Any]) -> Any:
    """Returns a value, with the spread of its repetitions where that was recorded."""
    value, spread = member.value(name, metric, **at), evaluator.find(name).metric(metric).spread
    measured = member.value(name, spread, **at) if spread and value is not None else None
    return value if measured is None else Repeated(value, measured)


def _place(axis: str, value: Any) -> str:
    number = f"{value:,}" if isinstance(value, int) else str(value)
    return number if axis == "context" else f"{axis.replace('_', ' ')} {number}"


def _coordinates(axis: tuple[str, Sequence[Any]], unit: str, name: str, metric: str) -> list[Cells]:
    """Returns a column for each coordinate of an array; none where there are over NAMED."""
    label, coordinates = axis
    if len(coordinates) > NAMED:
        return []

    def of(index: int) -> Callable[[Member], Any]:
        def value(member: Member) -> Any:
            found = member.value(name, metric, **{label: coordinates})
            return found[index] if found else None

        return value

    titles = (str(each).replace("_", " ") for each in coordinates)
    return [Cells(Column(title, unit), of(index)) for index, title in enumerate(titles)]


def shared_fact(members: Sequence[Member], name: str, fact: str) -> str:
    """Returns the text of a fact; where members differ, each text with its members."""
    texts: dict[str, list[str]] = {}
    for member in members:
        if text := member.fact(name, fact):
            texts.setdefault(printable_line(str(text)), []).append(printable_line(member.name))
    if len(texts) < 2:
        return "".join(texts)
    return " ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())
