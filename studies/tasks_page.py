"""docs/tasks.md: the probes of the registry, with the definition that each file opens with."""

import inspect
import sys

from seqarch import tasks
from seqarch.report.render import markdown_table
from seqarch.report.tables import Column, Row, Table
from seqarch.tasks.base import HELD_OUT_SEED
from seqarch.tasks.probe import Probe
from seqarch.tasks.trivial import trivial_accuracy

ROWS = 512  # on which the trivial rules are measured
HEAD = """# Tasks

Each task tests one ability on generated rows:

    python train.py --config=configs/probes.py:parity,gru --workdir=runs/parity
    python train.py --config="configs/probes.py:mqar(pairs=8),mamba,attention" --workdir=runs/mqar
    python eval.py --workdir=runs/parity

Options stand in parentheses. A target is what a model must answer at a token; a dash is a position
that is not scored. Chance is the accuracy of guessing among all answers. The trivial rule is the
best, on {rows} rows of the test split, of four that read no association: the commonest target, and
the row's first, last or commonest token so far that is a target in any row; it is left out for a
task whose rows hold text, as the text may not be here. The evaluator of accuracy measures it for
every task, and at other lengths and sizes too. `python scripts/docs.py` makes this page from the
source.
"""


COLUMNS = (
    Column("task"),
    Column("ability"),
    Column("options", "code"),
    Column("vocabulary", "count"),
    Column("chance", "percent"),
    Column("trivial rule", "percent"),
)


def tasks_page() -> str:
    """Returns docs/tasks.md: a table of all probes, then the definition of each, as markdown."""
    probes = {name: tasks.find(name)() for name in tasks.TASKS if _is_probe(name)}
    rows, sections = [], []
    for name, probe in probes.items():
        options = ", ".join(f"{option}={getattr(probe, option)}" for option in probe.options())
        trivial = None
        if not probe.of_text:
            trivial = trivial_accuracy(probe.rows("test", HELD_OUT_SEED, 0, ROWS))
        rows.append(Row((name, probe.ability, options, probe.vocab, probe.chance, trivial)))
        definition = inspect.cleandoc(sys.modules[type(probe).__module__].__doc__)
        sections.append(f"## {name}\n\n{definition}\n")
    table = markdown_table(Table("Tasks", "", COLUMNS, tuple(rows)))
    return "\n".join([HEAD.format(rows=ROWS), table, "", *sections])


def _is_probe(name: str) -> bool:
    return issubclass(tasks.find(name), Probe)
