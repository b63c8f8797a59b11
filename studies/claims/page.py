"""docs/claims.md, made from the findings."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqarch.report.formats import show
from seqarch.report.render import escape, markdown_table
from seqarch.report.tables import Column, Row, Table
from studies.claims import approximation, growth, hardware, matrix, speed, states
from studies.claims.base import Claim, Quantity, Setup

CLAIMS: tuple[Claim, ...] = (
    *growth.CLAIMS,
    *matrix.CLAIMS,
    *states.CLAIMS,
    *speed.CLAIMS,
    *approximation.CLAIMS,
    *hardware.CLAIMS,
)


def findings(setup: Setup) -> list[dict[str, Any]]:
    """Measures every claim and returns its words and its finding, ready for JSON."""
    made = []
    for claim in CLAIMS:
        setup.say(claim.said)
        found = claim.judge(setup)
        setup.say(f"  {found.verdict}: {found.number}")
        made.append(dict(said=claim.said, test=claim.test, **found._asdict()))
    return made


def page(record: Mapping[str, Any]) -> str:
    """Returns docs/claims.md.

    Args:
      record: `claims` as `findings` returns them, and `about`, which says how they were made. A
        cell of evidence is a text, a pair of a value and its unit, or None.
    """
    claims = record["claims"]
    summary = {
        each["said"]: {"verdict": each["verdict"], "number": each["number"]} for each in claims
    }
    parts = [*_head(record["about"]), _table("claim", summary)]
    for each in claims:
        said, number, test, why = (escape(each[name]) for name in ("said", "number", "test", "why"))
        parts += [f"## {said}", f"**{each['verdict'].capitalize()}**: {number}."]
        parts += [f"*Measured:* {test}", why, _table("", each["evidence"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(about: Mapping[str, Any]) -> list[str]:
    """What the page is, the command that made it, and where it ran."""
    shown = ("python", "jax", "libtpu")
    versions = [f"{name} {about['versions'][name]}" for name in shown if name in about["versions"]]
    return [
        "# Claims",
        "This page tests what is often said of recurrent, state-space and attention models. "
        "Each verdict follows from the numbers by a rule in `studies/claims/`. A claim is "
        "qualified where only some of its parts hold.",
        f"    {about['command']}",
        f"Made at revision {show(about['revision'], 'revision')} with {', '.join(versions)}, on "
        f"{about['cpus']} CPU cores; targets {', '.join(about['targets'])}. Programs for targets "
        "other than the local device are compiled and not run. All numbers are in "
        "[claims.json](claims.json).",
    ]


def _table(title: str, evidence: Mapping[str, Mapping[str, Any]]) -> str:
    titles = dict.fromkeys(name for row in evidence.values() for name in row)
    names = list(evidence)
    columns, found = [Column(title)], [names]
    for each in titles:
        column, values = _column(each, [row.get(each) for row in evidence.values()])
        columns.append(column)
        found.append(values)
    rows = tuple(map(Row, zip(*found, strict=True)))
    return markdown_table(Table(title, "", tuple(columns), rows)) if names else ""


def _column(title: str, cells: Sequence[Any]) -> tuple[Column, list[Any]]:
    """A column of values where all have one unit, else of texts."""
    units = {"text" if isinstance(cell, str) else cell[1] for cell in cells if cell is not None}
    if len(units) == 1 and units != {"text"}:
        return Column(title, *units), [cell and cell[0] for cell in cells]
    return Column(title), [cell if isinstance(cell, str) else _written(cell) for cell in cells]


def _written(cell: Sequence[Any] | None) -> str | None:
    return None if cell is None else str(Quantity(*cell))
