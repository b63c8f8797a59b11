"""Renders runs and sweeps without measuring anything.

    python scripts/report.py RUN [RUN ...] --out=DIR

A RUN is the directory of a run, of a sweep or of a comparison, or a records file. Runs of the same
model that differ in their seeds are one member, and its learning rates stand together. Writes
report.md, report.html, report.tex, results.csv, runs.csv and records.jsonl.
"""

from pathlib import Path

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

OUT = cli.define_path("out", "runs/report", "The directory to write.")
TITLE = flags.DEFINE_string("title", "", "The report's title.")


def main(*paths: str) -> None:
    from seqarch.report.collect import collect
    from seqarch.report.comparison import comparison_tables
    from seqarch.report.pages import write_report
    from seqarch.report.render import text_table

    found = collect([Path(path) for path in paths], TITLE.value)
    written = write_report(found, Path(OUT.value))
    print(f"{text_table(comparison_tables(found)[0])}\n")
    print("\n".join(f"wrote {path}" for path in written))


if __name__ == "__main__":
    cli.run(main, positional=("RUN",), more=True, device=False)
