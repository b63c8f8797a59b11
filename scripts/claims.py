"""Tests what is said about the trade between quality and memory.

    python scripts/claims.py --targets=local,tpu-v5e,gpu-h100

Compiles, runs and trains what the claims in studies/claims/ need, and writes OUT.json and OUT.md.
Measurements and trained runs are kept in WORKDIR, so that the same command continues where it
stopped.
"""

from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch.costs.cache import MeasurementCache
from seqarch.files import write_json
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from seqarch.runtime.progress import print_line
from studies.claims.page import page
from studies.claims.run import measure_claims, parse_target

LOCAL = spare_accelerator()  # JAX_PLATFORMS of the workers
TARGETS = flags.DEFINE_list(
    "targets", ["local"], "Devices, one chip of each, the local one among them."
)
LENGTHS = cli.define_lengths()
WORKDIR = cli.define_path(
    "workdir", str(ROOT / "runs/claims"), "Where measurements and runs are kept."
)
OUT = cli.define_path("out", "runs/claims/claims", "The files to write, without .json and .md.")
TIMEOUT = flags.DEFINE_float(
    "timeout", 900, "Seconds after which a compilation is given up.", lower_bound=1
)


def main() -> None:
    lengths = cli.read_lengths(LENGTHS.value)
    targets = list(dict.fromkeys(["local", *cli.readable(TARGETS.value, parse_target)]))
    out, workdir = Path(OUT.value), Path(WORKDIR.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    with MeasurementCache(workdir / "cache", timeout=TIMEOUT.value, platforms=LOCAL) as cache:
        record = measure_claims(cache, targets, lengths, ROOT / "docs", workdir, LOCAL, print_line)
    numbers, text = (out.with_name(f"{out.name}.{kind}") for kind in ("json", "md"))
    write_json(numbers, record)
    text.write_text(page(record), encoding="utf-8")
    print(f"wrote {numbers} and {text}")


if __name__ == "__main__":
    cli.run(main)
