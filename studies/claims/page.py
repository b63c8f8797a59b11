"""docs/claims.md, from what was found."""

from collections.abc import Mapping
from typing import Any

from seqarch.report.formats import show
from seqarch.report.render import escape, markdown_table
from seqarch.report.tables import Column, Row, Table
from studies.claims import approximation, growth, hardware, matrix, speed, states
from studies.claims.base import Claim, Means

CLAIMS: tuple[Claim, ...] = (
    *growth.CLAIMS,
    *matrix.CLAIMS,
    *states.CLAIMS,
    *speed.CLAIMS,
    *approximation.CLAIMS,
    *hardware.CLAIMS,
)


def findings(means: Means) -> list[dict[str, Any]]:
    """Each claim with what was found, as JSON has it."""
    made = []
    for claim in CLAIMS:
        means.say(claim.said)
        found = claim.judge(means)
        means.say(f"  {found.verdict}: {found.number}")
        made.append(dict(said=claim.said, test=claim.test, **found._asdict()))
    return made


def page(record: Mapping[str, Any]) -> str:
    """The document. record: claims, as `findings` returns them, and about, which says how they were
    made.
    """
    summary = {
        each["said"]: {"verdict": each["verdict"], "number": each["number"]}
        for each in record["claims"]
    }
    about = record["about"]
    versions = ", ".join(
        f"{name} {version}"
        for name, version in about["versions"].items()
        if name in ("python", "jax", "libtpu")
    )
    parts = [
        "# Claims",
        "What is often said of recurrent, state-space and attention models, and what measuring "
        "says. Verdicts follow from "
        "the numbers by rules in `studies/claims/`; where a claim has parts of which some hold, "
        "it is qualified.",
        f"    {about['command']}",
        f"Made at revision {show(about['revision'], 'revision')} with {versions}, on "
        f"{about['cpus']} CPU cores; targets "
        f"{', '.join(about['targets'])}. Programs for targets other than the local device are "
        "compiled, not run; all "
        "numbers are in [claims.json](claims.json).",
        _table("claim", summary),
    ]
    for each in record["claims"]:
        said, number, test, why = (escape(each[name]) for name in ("said", "number", "test", "why"))
        parts += [f"## {said}", f"**{each['verdict'].capitalize()}**: {number}."]
        parts += [f"*Measured:* {test}", why, _table("", each["evidence"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, cells: Mapping[str, Mapping[str, str]]) -> str:
    titles = dict.fromkeys(name for row in cells.values() for name in row)
    columns = (Column(title), *map(Column, titles))
    rows = (Row((name, *map(values.get, titles))) for name, values in cells.items())
    return markdown_table(Table(title, "", columns, tuple(rows))) if cells else ""
