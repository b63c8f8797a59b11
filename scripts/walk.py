"""Runs the commands that pages show, as they are written, and times them.

    python scripts/walk.py README.md docs/runs.md --skip="bash scripts/test.sh,pip"

It takes as long as they do. Run it in a fresh clone: they write below runs/ and docs/. Prints each
command with its exit code and the last line that it said, writes OUT/records.jsonl, in which times
of other commands stay, and exits with 2 where one failed.
"""

from pathlib import Path

from absl import flags

import _root
from seqarch import records
from seqarch.errors import UserError
from seqarch.runtime import cli
from seqarch.runtime.progress import duration, print_line
from studies.out import check
from studies.walk import KIND, walk, write

SKIP = flags.DEFINE_list("skip", [], "Beginnings of commands that are left out.")
OUT = cli.define_path("out", "runs/walk", "The directory to write.")


def main(*pages: str) -> None:
    ran, path = [], Path(OUT.value) / records.NAME
    check(path, KIND)
    for outcome in walk(_root.ROOT, [Path(page) for page in pages], SKIP.value):
        ran.append(outcome)
        took = f"exit code {outcome.code} after {duration(outcome.seconds)}"
        print_line(f"{outcome.command}\n  {took}: {outcome.said}")
        write(path, ran)
    if failed := sum(outcome.code != 0 for outcome in ran):
        raise UserError(f"{failed} commands failed; see above")


if __name__ == "__main__":
    cli.run(main, positional=("PAGE",), more=True, device=False)
