"""Reproduces published results of the field, each from its runs.

    python scripts/reproduce.py gru_state_tracking mqar_attention
    python scripts/reproduce.py cpu

A NAME is that of a result in studies/reproductions/, or a tier, which is all of its results: one of
`cpu` is meant for less than an hour on two cores, one of `hours` for some hours. Runs are kept in
WORKDIR, so that the same command goes on where it was cut short. After each result its verdict is
printed, and OUT/records.jsonl and OUT/report.md are written; records of other results stay.
"""

from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.errors import unknown
from seqarch.files import write_text
from seqarch.report.pages import markdown_page
from seqarch.runtime import cli
from seqarch.runtime.progress import print_line
from seqarch.runtime.workers import check_workers
from studies.out import check
from studies.reproductions.page import REPRODUCTIONS, reproductions_page, verdict_of
from studies.reproductions.run import KIND, by_reproduction, reproduce, write

WORKDIR = cli.define_path("workdir", str(ROOT / "runs/reproductions"), "Where runs are kept.")
OUT = cli.define_path("out", "runs/reproductions", "The directory to write.")
WORKERS = flags.DEFINE_integer("workers", None, "Runs at once; default: one a core.")


def main(*names: str) -> None:
    chosen = _chosen(names)
    workers, path = check_workers(WORKERS.value), Path(OUT.value) / records.NAME
    check(path, KIND)
    for name in chosen:
        study = REPRODUCTIONS[name]
        print_line(study.said)
        write(path, reproduce(study, Path(WORKDIR.value), workers, print_line))
        found = records.read(path).results
        write_text(path.with_name("report.md"), markdown_page(reproductions_page(found)))
        print_line(f"{name}: {verdict_of(study, by_reproduction(found)[name])[0]}")
    print_line(f"wrote {path} and {path.with_name('report.md')}")


def _chosen(names: tuple[str, ...]) -> list[str]:
    """Returns the names of results, with those of a tier in its place; raises UserError."""
    tiers: dict[str, list[str]] = {}
    for each, study in REPRODUCTIONS.items():
        tiers.setdefault(str(study.tier), []).append(each)
    known = tiers | {name: [name] for name in REPRODUCTIONS}
    if missing := [name for name in names if name not in known]:
        raise unknown("result or tier", missing[0], known)
    return list(dict.fromkeys(each for name in names for each in known[name]))


if __name__ == "__main__":
    cli.run(main, positional=("NAME",), more=True)
