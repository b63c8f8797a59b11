"""What members cost in memory on devices that are here or not: python scripts/memory.py --config=configs/memory.py

Compiles their train, prefill and decode steps at every length for every target, and searches for the longest context and the
most sequences that fit. RUNS gets report.md, results.csv, report.html and TensorBoard events; measurements are kept in
RUNS/cache, so that the same command goes on where it stopped.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import flags
from ml_collections import config_flags

from seqarch import cli
from seqarch.comparison.members import match_members
from seqarch.comparison.runs import revision
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.measure import survey
from seqarch.measure import survey_tables as tables
from seqarch.measure.cells import packages
from seqarch.measure.curves import parse_length
from seqarch.measure.lab import Lab
from seqarch.measure.report import csv_text, write_pages
from seqarch.measure.targets import place
from seqarch.training import rundir
from seqarch.training.logging import add_scalars

LOCAL = cli.spare_accelerator()  # of the workers
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.")
TARGETS = flags.DEFINE_list("targets", ["local"], "Devices, with their chips, such as local,tpu-v5e,tpu-v5p:2x2,gpu-h100:8.")
LENGTHS = flags.DEFINE_list("lengths", ["1024", "4096", "16384", "65536", "262144", "1048576"], "Tokens of context.")
WORKDIR = cli.define_path("workdir", None, "Directory of the report; default: runs/NAME in the repository.")
WORKERS = flags.DEFINE_integer("workers", min(2, os.cpu_count()), "Compilations at once.", lower_bound=1)
RUN = flags.DEFINE_boolean("run", False, "Also run what fits on the local CPU and compare; accelerators always do.")
TIMEOUT = flags.DEFINE_float("timeout", 900, "Seconds after which a compilation is given up.", lower_bound=1)
flags.mark_flag_as_required("config")
flags.register_validator("targets", bool, "give at least one")


def main() -> None:
    given = CONFIG.value.to_dict()
    if missing := [field for field in ("name", "reference", "members") if field not in given]:
        raise UserError(f"--config is no survey: it has no {', '.join(missing)}; start from configs/memory.py")
    name, reference, members = (given.pop(field) for field in ("name", "reference", "members"))
    lengths = sorted(set(cli.readable(LENGTHS.value, parse_length)))
    targets = cli.readable(dict.fromkeys(TARGETS.value), lambda target: place(target).name)
    configs = match_members(parse(given), reference, members)
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / name
    source = revision(rundir.revision())  # now: the tree may change meanwhile
    options = dict(workers=WORKERS.value, timeout=TIMEOUT.value, platforms=LOCAL)
    with Lab(workdir / "cache", **options) as lab:
        at_once = dict(workers=WORKERS.value, run_local=RUN.value)
        surveys = survey.run(lab, configs, targets, lengths, **at_once, say=lambda line: print(line, flush=True))
    rows, cells = tables.rows(surveys), tables.cell_rows(surveys, source)
    about = dict(
        title=f"What each architecture costs in memory: {name}",
        notice="Bytes of different definitions, as on CPUs and on accelerators, do not compare.",
        made=f"Made at revision {source} with {', '.join(packages())}.",
    )
    csv = csv_text(cells, [tables.CELLS], about["notice"])
    paths = write_pages(rows, tables.tables(surveys), tables.figures(surveys), workdir, csv=csv, **about)
    shutil.rmtree(workdir / "tensorboard", ignore_errors=True)
    for (target, name), points in tables.points(cells).items():
        add_scalars(workdir / "tensorboard" / target / name, points)
    print("\n".join(f"wrote {path}" for path in paths))


if __name__ == "__main__":
    cli.run(main)
