"""Runs the commands that pages show, as they are written.

    python scripts/walk.py README.md docs/runs.md

It takes as long as they do. Run it in a fresh clone: they write below runs/ and docs/. Prints each
command with its exit code and the last line that it said, and exits with 2 where one failed.
"""

from pathlib import Path

import _root
from seqarch.errors import UserError
from seqarch.runtime import cli
from seqarch.runtime.progress import print_line
from studies.commands import walk


def main(*pages: str) -> None:
    failed = 0
    for outcome in walk(_root.ROOT, [Path(page) for page in pages]):
        print_line(f"{outcome.command}\n  exit code {outcome.code}: {outcome.said}")
        failed += outcome.code != 0
    if failed:
        raise UserError(f"{failed} commands failed; see above")


if __name__ == "__main__":
    cli.run(main, positional=("PAGE",), more=True, device=False)
