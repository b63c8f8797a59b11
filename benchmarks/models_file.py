"""The committed estimates of models on a TPU, and their page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import FORMS, KIND, SHARE
from seqarch import records
from seqarch.costs.time import ESTIMATED
from seqarch.records import Results
from seqarch.report.formats import format_percent
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table

SHOWN = 3  # parts of a program, those that take most of its time
COLUMNS = (
    *(Column("model"), Column("forms"), Column("parameters", "count"), Column("rows", "count")),
    Column("at once", "count"),
    *(Column("tokens/s", "rate"), Column("MFU", "percent"), Column("peak", "bytes")),
    *(Column("most of the time is spent on"), Column("revision", "revision")),
)


def update(path: Path, target: str, found: Results) -> None:
    """Writes the estimates of a model in some form into a file; other ones stay.

    Args:
      path: the records file.
      target: the TPU.
      found: the estimates.
    """
    records.replace(path, [found], dict(kind=KIND, target=target), _key)


def _key(results: Results) -> tuple[str, int]:
    return results.source.member, FORMS.index(results.records[0].at["forms"])


def models_page(about: Mapping[str, Any], found: Sequence[Results]) -> Page:
    """Returns the page of a file: the speed of each model, and what its time is spent on."""
    caption = (
        "Train steps in bfloat16. Plain forms are those of other accelerators. The rows of a batch "
        "are those of the config, or the most of its halves that fit, in as many micro-batches."
    )
    rows = tuple(map(_row, found))
    title = f"Models on {about['target']}, {ESTIMATED}"
    return Page(title, [Table("Models of one size", caption, COLUMNS, rows)])


def _row(results: Results) -> Row:
    (time,), source = results.all(KIND, "estimated_s"), results.source
    most = time.note if time.value is None else _most(results)
    numbers = []
    for metric in ("estimated_tokens_per_s", "estimated_mfu", "total_bytes"):
        numbers += [record.value for record in results.all(KIND, metric)] or [None]
    params = [record.value for record in results.all(KIND, "params")] or [None]
    rows = time.at["batch"]
    sizes = *params, rows, rows // source.config["optim"]["accumulate"]
    return Row((source.member, time.at["forms"], *sizes, *numbers, most, source.revision))


def _most(results: Results) -> str:
    """Returns the parts that take most of the time, with their shares."""
    shares = sorted(results.all(KIND, SHARE), key=lambda record: -record.value)[:SHOWN]
    return ", ".join(f"{each.at['part']} {format_percent(each.value)}" for each in shares)
