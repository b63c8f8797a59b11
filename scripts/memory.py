"""Measures the memory that members need on devices, present or absent.

    python scripts/memory.py --config=configs/memory.py

Compiles their train, prefill and decode steps at every length for every target, and searches for
the longest context and the most sequences that fit. With --time the report also says how long the
programs take: measured where they are run, and as the compilers of TPUs estimate it. WORKDIR gets
records.jsonl, report.md, report.html, results.csv and TensorBoard events; WORKDIR/cache keeps
measurements, so that the same command continues where it stopped.
"""

import os
from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.compare.members import read_members
from seqarch.costs import measure
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.errors import UserError
from seqarch.report.costs import costs_page
from seqarch.report.events import write_costs
from seqarch.report.pages import write_csv, write_page
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator

LOCAL = spare_accelerator()  # JAX_PLATFORMS of the workers
CONFIG = cli.define_config()
TARGETS = flags.DEFINE_list(
    "targets", ["local"], "Devices, with their chips, such as local,tpu-v5e,tpu-v5p:2x2,gpu-h100:8."
)
LENGTHS = cli.define_lengths()
WORKDIR = cli.define_path(
    "workdir", None, "Directory of the report; default: runs/NAME in the repository."
)
WORKERS = flags.DEFINE_integer(
    "workers", min(2, os.cpu_count()), "Compilations at once.", lower_bound=1
)
RUN = flags.DEFINE_boolean(
    "run", False, "Also run what fits on the local CPU and compare; accelerators always do."
)
TIME = flags.DEFINE_boolean(
    "time", False, "Also time what is run, and estimate the time on TPUs, which compiles whole."
)
PRICE = flags.DEFINE_float(
    "price", None, "Dollars of a chip for an hour: with --time, adds the cost of tokens.", 0
)
TIMEOUT = flags.DEFINE_float(
    "timeout", 900, "Seconds after which a compilation is given up.", lower_bound=1
)
flags.mark_flag_as_required("config")
flags.register_validator("targets", bool, "give at least one")


def main() -> None:
    if PRICE.value is not None and not TIME.value:
        raise UserError("--price needs --time, which tells how many tokens an hour gives")
    name, configs = read_members(CONFIG.value.to_dict())
    lengths = cli.read_lengths(LENGTHS.value)
    targets = cli.readable(dict.fromkeys(TARGETS.value), lambda target: place(target).name)
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / name
    options = dict(workers=WORKERS.value, timeout=TIMEOUT.value, platforms=LOCAL)
    with MeasurementCache(workdir / "cache", **options) as cache:
        options = dict(workers=WORKERS.value, run_local=RUN.value)
        options |= dict(timed=TIME.value, price=PRICE.value)
        results = measure.run(cache, configs, targets, lengths, **options)
    title = f"What each architecture costs in memory: {name}"
    records.write(workdir / records.NAME, results, dict(kind="costs", title=title))
    paths = write_page(costs_page(title, results), workdir)
    write_costs(results, targets, workdir / "tensorboard")
    for path in [*paths, write_csv(results, workdir), workdir / records.NAME]:
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
