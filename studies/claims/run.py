"""Measures all claims and writes their records."""

from pathlib import Path

from configs import compare, memory
from seqarch import records
from seqarch.compare.members import read_members
from seqarch.compare.spec import FIELDS
from seqarch.config import Config, parse
from seqarch.costs.devices import place
from seqarch.errors import UserError
from seqarch.provenance import provenance
from seqarch.records import Record, Results, Source, tag
from studies.claims.base import Claim
from studies.claims.evidence import EVALUATOR
from studies.claims.page import CLAIMS
from studies.claims.setup import Setup
from studies.out import check


def record_all(setup: Setup, path: Path) -> list[Results]:
    """Measures every claim, says its verdict, and writes the records after each.

    Args:
      setup: what they are measured with.
      path: the records file; what it holds of claims that are not measured yet is kept.

    Returns:
      The records of each claim.

    Raises:
      UserError: where `path` is another file, or its directory cannot be made.
    """
    check(path, EVALUATOR)
    found, made = _known(path), provenance()  # now: the tree may change meanwhile
    facts = {EVALUATOR: dict(targets=list(setup.targets))}
    for claim in CLAIMS:
        setup.say(claim.said)
        source = Source(claim.name, "program", provenance=made, facts=facts)
        found[claim.name] = Results(source, _records(claim, setup))
        records.write(path, list(found.values()), dict(kind=EVALUATOR))
        judged = claim.finding(found[claim.name])
        setup.say(f"  {judged.verdict}: {judged.number or judged.why}")
    return list(found.values())


def _records(claim: Claim, setup: Setup) -> tuple[Record, ...]:
    """Measures a claim; what cannot be measured is said."""
    found = []
    for record in claim.records(setup):
        found.append(record)
        if record.note:
            setup.say(f"  {tag(record)}: {record.note}")
    return tuple(found)


def _known(path: Path) -> dict[str, Results]:
    """What an earlier call measured, by claim."""
    known = records.read(path).results if path.exists() else []
    return {each.source.member: each for each in known}


def parse_target(name: str) -> str:
    """Returns the name of a target.

    Raises:
      UserError: for an unknown target, and for one with a number of chips.
    """
    if ":" in name:
        raise UserError(
            f"--targets has {name}; give targets without chips, which the claims choose themselves"
        )
    return place(name).name


def members(size: str) -> dict[str, Config]:
    """Returns the members of configs/memory.py at "1m" or "8b" parameters, by name."""
    return read_members(memory.get_config(size).to_dict())[1]


def trained() -> Config:
    """Returns the budget of the tour in configs/compare.py."""
    given = compare.get_config("tour").to_dict()
    return parse({name: value for name, value in given.items() if name not in FIELDS})
