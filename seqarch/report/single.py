"""The records of one run as text, with a line for each number."""

from collections.abc import Iterator

from seqarch.errors import printable_line
from seqarch.evals import evaluator
from seqarch.records import Results
from seqarch.report import members
from seqarch.report.formats import show
from seqarch.report.tables import Table, evaluator_table


def run_text(results: Results) -> str:
    """Returns what was measured, under the titles of its evaluators' tables."""
    found, lines = members.group([results]), []
    for name in members.evaluators(found):
        for spec in evaluator.find(name).tables:
            if table := evaluator_table(spec, name, found):
                lines += ["", table.title, *_lines(table)]
    return "\n".join(lines)


def _lines(table: Table) -> Iterator[str]:
    """Yields a line for each cell of the first row but its name."""
    for column, cell in zip(table.columns[1:], table.rows[0].cells[1:], strict=True):
        yield f"  {printable_line(column.title):<36}{show(cell, column.unit):>14}"
