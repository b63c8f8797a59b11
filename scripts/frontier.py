"""Says how many bytes of state a task needs, from the runs of a sweep over states.

    python scripts/frontier.py runs/sweeps/frontier/* --out=docs/frontier

A RUN is one that configs/sweeps/frontier.py trains and measures. Writes, from their records alone,
the smallest states, a fitted law of errors, and the runs that both rest on, as records.jsonl beside
report.md, report.html and report.tex. scripts/plan.py --facts reads the law.
"""

from pathlib import Path

import _root  # noqa: F401
from seqarch.runtime import cli

TITLE = "Bytes of state that a task needs"
OUT = cli.define_path("out", "runs/frontier-report", "The directory to write.")


def main(*paths: str) -> None:
    from seqarch import records
    from seqarch.evals.frontier import NAME, frontiers, slim
    from seqarch.report.collect import read_runs
    from seqarch.report.frontier import smallest_table
    from seqarch.report.frontier_page import frontier_page
    from seqarch.report.pages import write_page
    from seqarch.report.render import text_table

    runs = read_runs([Path(path) for path in paths])
    found = frontiers(runs)
    directory = Path(OUT.value)
    directory.mkdir(parents=True, exist_ok=True)
    results = [*found, *map(slim, runs)]
    records.write(directory / records.NAME, results, dict(kind=NAME, title=TITLE))
    written = write_page(frontier_page(TITLE, results), directory)
    print(f"{text_table(smallest_table(found))}\n")
    print("\n".join(f"wrote {path}" for path in [*written, directory / records.NAME]))


if __name__ == "__main__":
    cli.run(main, positional=("RUN",), more=True, device=False)
