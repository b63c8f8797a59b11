"""The page of a frontier's records: how many bytes of state a task needs, and in which setting."""

from collections.abc import Sequence

from seqarch.config import flatten
from seqarch.evals.frontier import NAME
from seqarch.records import Results
from seqarch.report.frontier import accuracy_table, law_table, setting_of, smallest_table
from seqarch.report.frontier_figure import frontier_figure
from seqarch.report.notices import mixed_revisions, revisions_text
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table

SHARED = ("length", "steps", "batch", "model.layers", "model.conv", "model.mlp", "model.vocab")
SHARED += ("model.dtype", "optim.warmup", "optim.final_lr", "optim.weight_decay")


def frontier_page(title: str, results: Sequence[Results]) -> Page:
    """Returns the page of a frontier's records.

    Args:
      title: the page's title.
      results: the frontiers of mixers, and the runs that they are made from.
    """
    found = [each for each in results if each.source.kind == NAME]
    tables = [smallest_table(found), law_table(found), accuracy_table(results)]
    tables += [varied_table(found), shared_table(found)]
    about = (
        f"Made at revision {revisions_text(results)}. It is evidence for this setting and this "
        "budget, not for others."
    )
    return Page(
        title,
        [each for each in tables if each],
        [frontier_figure(results)],
        mixed_revisions(results),
        about,
    )


def varied_table(found: Sequence[Results]) -> Table:
    """Returns what was tried of each mixer, and how many runs count."""
    rows = []
    for each in found:
        setting = setting_of(each)
        tried = (_list(setting[name]) for name in ("widths", "sizes", "learning_rates"))
        patterns = "; ".join(setting["patterns"])
        counts = setting["runs"], setting["reported"]
        rows.append(Row((each.source.member, patterns, *tried, *counts)))
    columns = [Column("mixer"), Column("layers of"), Column("widths")]
    columns += [Column(setting_of(found[0])["size"]), Column("learning rates")]
    columns += [Column("runs", "count"), Column("that count", "count")]
    return Table("What was tried", "", tuple(columns), tuple(rows))


def shared_table(found: Sequence[Results]) -> Table:
    """Returns what all runs share."""
    config = flatten(found[0].source.config)
    rows = [("task", setting_of(found[0])["task"])]
    rows += [(name, str(config[name])) for name in SHARED if name in config]
    columns = Column("field", "code"), Column("value")
    return Table("What all runs share", "", columns, tuple(map(Row, rows)))


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
