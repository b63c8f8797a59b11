"""One run's records as text: a line for each number."""

from seqarch.evals import evaluator
from seqarch.records import Results
from seqarch.report import members
from seqarch.report.comparison import evaluators
from seqarch.report.formats import printable, show
from seqarch.report.tables import evaluator_table


def run_text(results: Results) -> str:
    """What was measured, under the titles of its evaluators' tables."""
    found = members.group([results])
    lines = []
    for name in evaluators(found):
        entry = evaluator.find(name)
        for spec in entry.tables:
            if table := evaluator_table(spec, name, entry, found):
                cells = zip(table.columns[1:], table.rows[0].cells[1:], strict=True)
                lines += ["", table.title]
                lines += [
                    f"  {printable(column.title):<36}{show(cell, column.unit):>14}"
                    for column, cell in cells
                ]
    return "\n".join(lines)
