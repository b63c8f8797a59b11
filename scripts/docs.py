"""Renders the tables and figures of README.md and docs/ from their records.

    python scripts/docs.py [--check]

In a page, what stands between <!-- RECORDS: TITLE --> and <!-- end --> is the table of that title,
made from docs/RECORDS; docs/api.md, docs/architectures.md and docs/tasks.md are made from the
source. With --check nothing is written, and pages that are out of date are named.
"""

from absl import flags

from _root import ROOT
from seqarch.errors import UserError
from seqarch.runtime import cli

CHECK = flags.DEFINE_bool("check", False, "Write nothing; exit with 2 where a page is out of date.")


def main() -> None:
    from studies.docs import render

    stale = render(ROOT, write=not CHECK.value)
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if CHECK.value and stale:
        raise UserError(f"out of date: {names}; run `python scripts/docs.py`")
    print(f"wrote {names}" if stale else "every page is what its records say")


if __name__ == "__main__":
    cli.run(main, device=False)
