"""Rows and tables, as one description that every format of a report is rendered from, and how values look in them."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from seqarch.training.rundir import flatten

MISSING = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One member of a comparison, or one baseline.

    kind: "model" or "baseline"
    values: what was measured, by the names of eval.json ("quality/bits_per_byte", "memory/state_bytes@1024", ...)
    config: of the run (seqarch.config.to_dict); empty for a baseline
    revision: of the repository when the row was made
    command: what to type to make it again
    """

    name: str
    kind: str
    values: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    revision: str = ""
    command: str = ""


class Column(NamedTuple):
    """title: of the column; key: of its value in `fields(row)`; format: a name in FORMATS."""

    title: str
    key: str
    format: str


class Table(NamedTuple):
    title: str
    caption: str
    columns: tuple[Column, ...]


def fields(row: Row) -> dict[str, Any]:
    """Everything that a column can show of a row: its values, flattened, and where they come from.

    A nested dict's entries are named "quality/by_document/hamlet", a config's "config/model.mlp".
    """
    model = row.config.get("model", {})
    flat = {"name": row.name, "kind": row.kind, "revision": row.revision, "command": row.command, "config": row.config}
    flat["seeds"] = ", ".join(f"{name} {seed}" for name, seed in row.seeds.items())
    if model.get("dim"):
        flat["mlp_ratio"] = model["mlp"] / model["dim"]
    for key, value in row.values.items():
        flat.update({f"{key}/{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value})
    return flat | {f"config/{name}": value for name, value in flatten(row.config).items()}


NAME = Column("model", "name", "text")


def contexts(rows: Sequence[Row], key: str) -> list[int]:
    """The lengths L for which some row has the value `key@L`, in order."""
    found = (re.fullmatch(re.escape(key) + r"@(\d+)", name) for row in rows for name in row.values)
    return sorted({int(match[1]) for match in found if match})


def columns_at(rows: Sequence[Row], key: str, title: str, format: str) -> tuple[Column, ...]:
    return tuple(Column(f"{title} @ {length:,}", f"{key}@{length}", format) for length in contexts(rows, key))


def format_bytes(value: float) -> str:
    """1536 as "1.5 KiB"."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_si(value: float) -> str:
    """1530000 as "1.53 M"."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.0f} {units[power]}".strip() if value >= 100 or power == 0 else f"{value:.3g} {units[power]}"


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "size": str,  # a number that is written already
    "code": str,
    "revision": lambda text: re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", text),  # git's commits, shortened
    "bits": "{:.3f}".format,
    "ratio": "{:.2f}".format,
    "count": "{:,}".format,
    "rate": "{:,.0f}".format,
    "seconds": "{:.1f} s".format,
    "bytes": format_bytes,
    "si": format_si,
}


def show(value: Any, format: str) -> str:
    """A value as readers see it; what is missing is an en dash."""
    return MISSING if value is None or value == "" else FORMATS[format](value)
