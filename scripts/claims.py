"""Tests what is said about the trade between quality and memory.

    python scripts/claims.py --targets=local,tpu-v5e,gpu-h100

Compiles, runs and trains what the claims in studies/claims/ need, and writes OUT.json and OUT.md.
Measurements and trained runs are kept in WORKDIR, so that the same command continues where it
stopped.
"""

import shlex
from pathlib import Path

from absl import flags

from _root import ROOT
from configs import compare, memory
from seqarch.compare.members import match_members
from seqarch.compare.spec import FIELDS
from seqarch.config import Config, parse
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.search import parse_length
from seqarch.errors import UserError
from seqarch.files import write_json
from seqarch.provenance import provenance
from seqarch.records import Source
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from studies.claims.base import Setup
from studies.claims.page import findings, page

LOCAL = spare_accelerator()  # of the workers
TARGETS = flags.DEFINE_list(
    "targets", ["local"], "Devices, one chip of each, the local one among them."
)
LENGTHS = flags.DEFINE_list(
    "lengths", ["1024", "4096", "16384", "65536", "262144", "1048576"], "Tokens of context."
)
WORKDIR = cli.define_path(
    "workdir", str(ROOT / "runs/claims"), "Where measurements and runs are kept."
)
OUT = cli.define_path("out", "runs/claims/claims", "The files to write, without .json and .md.")
TIMEOUT = flags.DEFINE_float(
    "timeout", 900, "Seconds after which a compilation is given up.", lower_bound=1
)


def main() -> None:
    lengths = sorted(set(cli.readable(LENGTHS.value, parse_length)))
    targets = list(dict.fromkeys(["local", *cli.readable(TARGETS.value, one_chip)]))
    out, workdir = Path(OUT.value), Path(WORKDIR.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = provenance()  # now: the tree may change meanwhile
    with MeasurementCache(workdir / "cache", timeout=TIMEOUT.value, platforms=LOCAL) as cache:
        setup = Setup(
            cache=cache,
            targets=targets,
            small=members("1m"),
            large=members("8b"),
            trained=trained(),
            lengths=lengths,
            docs=ROOT / "docs",
            workdir=workdir,
            platforms=LOCAL,
            say=lambda line: print(line, flush=True),
        )
        claims = findings(setup)
    about = dict(
        revision=Source("claims", provenance=made).revision,
        versions=made["versions"],
        cpus=made["host"]["cpus"],
        targets=targets,
    )
    about["command"] = shlex.join(made["command"])
    record = dict(about=about, claims=claims)
    numbers, text = (out.with_name(f"{out.name}.{kind}") for kind in ("json", "md"))
    write_json(numbers, record)
    text.write_text(page(record), encoding="utf-8")
    print(f"wrote {numbers} and {text}")


def one_chip(name: str) -> str:
    """Returns the name of a target; raises UserError where it says how many chips."""
    if ":" in name:
        raise UserError(
            f"--targets has {name}; give targets without chips, which the claims choose themselves"
        )
    return place(name).name


def members(size: str) -> dict[str, Config]:
    """Returns the members of configs/memory.py at a size, with equal parameters."""
    given = memory.get_config(size).to_dict()
    _, reference, patterns = (given.pop(field) for field in ("name", "reference", "members"))
    return match_members(parse(given), reference, patterns)


def trained() -> Config:
    """Returns the config of the tour in configs/compare.py."""
    given = compare.get_config("tour").to_dict()
    return parse({name: value for name, value in given.items() if name not in FIELDS})


if __name__ == "__main__":
    cli.run(main)
