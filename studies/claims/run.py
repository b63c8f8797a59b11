"""Tests all claims and makes the record that docs/claims.json holds."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs import compare, memory
from seqarch.compare.members import read_members
from seqarch.compare.spec import FIELDS
from seqarch.config import Config, parse
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.errors import UserError
from seqarch.provenance import provenance
from seqarch.records import Source
from studies.claims.base import Setup
from studies.claims.page import findings


def measure_claims(
    cache: MeasurementCache,
    targets: Sequence[str],
    lengths: Sequence[int],
    docs: Path,
    workdir: Path,
    platforms: str | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measures what the claims need and returns what was found and how, as JSON has it.

    Args:
      cache: measures programs.
      targets: devices by name, the local one first.
      lengths: tokens of context.
      docs: the directory of earlier records.
      workdir: the directory of the runs that are trained.
      platforms: JAX_PLATFORMS for programs that run.
      say: takes lines of progress.
    """
    made = provenance()  # now: the tree may change meanwhile
    small, large = members("1m"), members("8b")
    setup = Setup(cache, targets, small, large, trained(), lengths, docs, workdir, platforms, say)
    claims = findings(setup)
    about = dict(
        revision=Source("claims", provenance=made).revision,
        versions=made["versions"],
        cpus=made["host"]["cpus"],
        targets=list(targets),
        command=shlex.join(made["command"]),
    )
    return dict(about=about, claims=claims)


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
