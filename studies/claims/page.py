"""docs/claims/report.md: a section for each claim, made from its records."""

from collections.abc import Sequence

from seqarch.errors import UserError
from seqarch.files import has_shape
from seqarch.records import Results
from seqarch.report.formats import show
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table
from studies.claims import approximation, growth, hardware, matrix, speed, states
from studies.claims.base import Claim, Finding
from studies.claims.evidence import EVALUATOR

CLAIMS: tuple[Claim, ...] = (
    *growth.CLAIMS,
    *matrix.CLAIMS,
    *states.CLAIMS,
    *speed.CLAIMS,
    *approximation.CLAIMS,
    *hardware.CLAIMS,
)
TITLE = "Claims"
MADE = {"versions": {"python": str, "jax": str}, "host": {"cpus": int}}  # shape of what is shown


def claims_page(results: Sequence[Results]) -> Page:
    """Returns the page of a records file: all verdicts, then each claim with its evidence."""
    by_name = {each.source.member: each for each in results}
    found = {claim: claim.finding(by_name[claim.name]) for claim in CLAIMS if claim.name in by_name}
    columns = Column("claim"), Column("verdict"), Column("number")
    rows = [Row((claim.said, str(each.verdict), each.number)) for claim, each in found.items()]
    verdicts = Table("Verdicts", "", columns, tuple(rows))
    evidence = [_evidence(claim, each) for claim, each in found.items()]
    return Page(TITLE, [verdicts, *evidence], made=_made(results))


def _evidence(claim: Claim, found: Finding) -> Table:
    """The section of a claim, whose caption has its verdict, its test and the reasons."""
    said = ": ".join(part for part in (found.verdict.capitalize(), found.number) if part)
    caption = f"{said}.\n\nMeasured: {claim.test}\n\n{found.why}"
    rows = tuple(Row((name, *cells)) for name, cells in found.rows.items())
    columns = (Column(""), *found.columns) if rows else ()
    return Table(claim.said, caption, columns, rows)


def _made(results: Sequence[Results]) -> str:
    """How and where the claims were measured; claims that were measured apart may differ."""
    lines = dict.fromkeys(map(_origin, results))
    return " ".join([*lines, "Programs for targets other than the local device are not run."])


def _origin(each: Results) -> str:
    made, targets = each.source.provenance, each.fact(EVALUATOR, "targets")
    if not (has_shape(made, MADE) and has_shape(targets, [str])):
        raise UserError(f"the source of {each.source.member} is damaged; measure the claims again")
    versions = " and ".join(f"{name} {made['versions'][name]}" for name in ("python", "jax"))
    return (
        f"Made at revision {show(each.source.revision, 'revision')} with {versions}, on "
        f"{made['host']['cpus']} CPU cores; targets {', '.join(targets)}."
    )
