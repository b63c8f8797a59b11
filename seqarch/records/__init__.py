"""Records: numbers, what they were measured at, and the source that they belong to.

    results = Results(source, (Record("memory", "state_bytes", 65536, {"context": 4096}),))
    write(run / "records.jsonl", [results])
    results.value("memory", "state_bytes", context=4096)

A records file holds one JSON object a line: each source, followed by its records. Tables, figures,
TensorBoard and CSV are rendered from records, at any time, without measuring again.
"""

from seqarch.records.file import NAME, PROVENANCE, VERSION, RecordsFile, read, replace, write
from seqarch.records.record import (
    UNMEASURED,
    Fact,
    Record,
    Results,
    Scalar,
    Source,
    Value,
    answers,
    fresh,
    measured_fields,
    tag,
)

__all__ = [
    "NAME",
    "PROVENANCE",
    "UNMEASURED",
    "VERSION",
    "Fact",
    "Record",
    "RecordsFile",
    "Results",
    "Scalar",
    "Source",
    "Value",
    "answers",
    "fresh",
    "measured_fields",
    "read",
    "replace",
    "tag",
    "write",
]
