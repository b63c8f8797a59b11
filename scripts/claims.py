"""Tests what is said about the trade between quality and memory.

    python scripts/claims.py --targets=local,tpu-v5e,gpu-h100

Compiles, runs and trains what the claims in studies/claims/ need. Prints each verdict, and writes
OUT/records.jsonl after each claim and OUT/report.md at the end. Compilations and trained runs are
kept in WORKDIR, so that the same command does not repeat them.
"""

from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.costs.cache import MeasurementCache
from seqarch.files import write_text
from seqarch.report.pages import markdown_page
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from seqarch.runtime.progress import print_line
from studies.claims.page import claims_page
from studies.claims.run import members, parse_target, record_all, trained
from studies.claims.setup import Setup

LOCAL = spare_accelerator()  # JAX_PLATFORMS of the workers
TARGETS = flags.DEFINE_list(
    "targets", ["local"], "Devices, one chip of each, the local one among them."
)
LENGTHS = cli.define_lengths()
WORKDIR = cli.define_path(
    "workdir", str(ROOT / "runs/claims"), "Where compilations and trained runs are kept."
)
OUT = cli.define_path("out", "runs/claims", "The directory to write.")
TIMEOUT = flags.DEFINE_float(
    "timeout", 900, "Seconds after which a compilation is given up.", lower_bound=1
)


def main() -> None:
    lengths = cli.read_lengths(LENGTHS.value)
    targets = list(dict.fromkeys(["local", *cli.readable(TARGETS.value, parse_target)]))
    out, workdir = Path(OUT.value), Path(WORKDIR.value)
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
            say=print_line,
        )
        results = record_all(setup, out / records.NAME)
    write_text(out / "report.md", markdown_page(claims_page(results)))
    print(f"wrote {out / records.NAME} and {out / 'report.md'}")


if __name__ == "__main__":
    cli.run(main)
