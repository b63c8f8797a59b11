"""The page of docs/ that says what every metric is, as it is declared."""

from collections.abc import Sequence

from seqarch.costs import results as costs
from seqarch.evals import frontier
from seqarch.evals.evaluator import EVALUATORS, Metric, find
from seqarch.report.render import markdown_table
from seqarch.report.tables import Column, Row, Table
from seqarch.training.metrics import METRICS

HEAD = """# Metrics

What the numbers in a run's files are. `python scripts/docs.py` makes this page from the source.

## In metrics.jsonl and in trackers

Trackers show the groups in this order.

"""
RECORDS = """## In records.jsonl

A record has its evaluator, its metric, what it was measured at, and its value (`seqarch/records/`).
The unit is the one in which reports write it; in the file a percentage is a share of 1. `eval.py`
writes those of the evaluators that a config names, `scripts/memory.py` and `scripts/plan.py` those
of *costs*, and `scripts/frontier.py` those of *frontier*.
"""
SCALARS = (Column("metric", "code"), Column("group"), Column("unit"), Column("meaning"))
BETTER = {True: "lower", False: "higher", None: ""}
ANY = {"*": "size of the task"}  # what a place stands for whose name depends on the task


def metrics_page() -> str:
    """Returns docs/metrics.md: a table of training's metrics, then one for each evaluator."""
    scalars = tuple(Row((name, *scalar)) for name, scalar in METRICS.items())
    parts = [HEAD + markdown_table(Table("Training", "", SCALARS, scalars)), RECORDS]
    declared = {name: find(name).metrics for name in EVALUATORS}
    declared |= {costs.EVALUATOR: costs.METRICS, frontier.NAME: frontier.METRICS}
    for name, metrics in declared.items():
        parts.append(f"### {name}\n\n{markdown_table(_table(name, metrics))}\n")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _table(name: str, metrics: Sequence[Metric]) -> Table:
    """Returns the table of the metrics of an evaluator."""
    places = [", ".join(ANY.get(place, place) for place in each.at) for each in metrics]
    at = [Column("at each")] if any(places) else []
    about = (Column("metric", "code"), Column("unit"), *at, Column("better"), Column("meaning"))
    rows = [
        Row((each.name, each.unit, *[place] * len(at), BETTER[each.lower], each.help))
        for each, place in zip(metrics, places)
    ]
    return Table(name, "", about, tuple(rows))
