"""The committed estimates of models on a TPU, and their page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.decoding import decoding_table
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
    """Writes the estimates of a model into a file; those of others, and in other forms, stay."""
    records.replace(path, [found], dict(kind=KIND, target=target), _key)


def _key(results: Results) -> tuple[bool, str, int]:
    """Sorts train steps before decoding, and by model."""
    forms = results.records[0].at.get("forms")
    order = FORMS.index(forms) if forms else 0
    return forms is None, results.source.member, order


def models_page(about: Mapping[str, Any], found: Sequence[Results]) -> Page:
    """Returns the page of a file: training, what its time is spent on, and decoding."""
    caption = (
        "Train steps in bfloat16. Plain forms are those of other accelerators. The rows of a batch "
        "are those of the config, or the most of its halves that fit, in as many micro-batches."
    )
    trained = [each for each in found if each.records[0].evaluator == KIND]
    tables = []
    if trained:
        tables.append(Table("Models of one size", caption, COLUMNS, tuple(map(_row, trained))))
    if decoded := [each for each in found if each.records[0].evaluator != KIND]:
        tables.append(decoding_table(decoded))
    return Page(f"Models on {about['target']}, {ESTIMATED}", tables)


def _row(results: Results) -> Row:
    (time,), source = results.all(KIND, "estimated_s"), results.source
    most = time.note if time.value is None else _most(results)
    metrics = ("params", "estimated_tokens_per_s", "estimated_mfu", "total_bytes")
    params, *numbers = (results.value(KIND, metric, **time.at) for metric in metrics)
    rows = time.at["batch"]
    sizes = params, rows, rows // source.config["optim"]["accumulate"]
    return Row((source.member, time.at["forms"], *sizes, *numbers, most, source.revision))


def _most(results: Results) -> str:
    """Returns the parts that take most of the time, with their shares."""
    shares = sorted(results.all(KIND, SHARE), key=lambda record: -record.value)[:SHOWN]
    return ", ".join(f"{each.at['part']} {format_percent(each.value)}" for each in shares)
