"""Times every form of every op, mixers, train steps, decoding and compilation.

    python scripts/bench.py --out=FILE.jsonl

Prints tables and, with their targets, the ratios that are promised, and writes records. It takes
most of an hour on two quiet cores; --only=attention,gru measures some groups. --peers times
PyTorch's layers beside ours (requirements-peers.txt), --only=sweep the runs of a sweep one at a
time and together. --show=FILE.jsonl prints the tables of an earlier run.
"""

import sys
from pathlib import Path

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli
from studies.out import check

ONLY = flags.DEFINE_list(
    "only",
    [],
    "Groups to measure: names of ops, decays, mixers, families, seen, newton, train_step, "
    "decoding, compile, generation; or peers, sweep, which are measured only where they are named.",
)
PEERS = flags.DEFINE_bool(
    "peers", False, "Time PyTorch's layers beside ours too; --only=peers: nothing else."
)
OUT = cli.define_path("out", None, "The records file to write.")
SHOW = cli.define_path("show", None, "Print the tables of this records file instead of measuring.")


def main() -> None:
    import jax

    from benchmarks import bench
    from benchmarks.tables import bench_page
    from seqarch import records
    from seqarch.report.pages import markdown_page

    if SHOW.value:
        print(markdown_page(bench_page(bench.read(Path(SHOW.value), "show"))))
        return
    if OUT.value:
        check(Path(OUT.value), bench.KIND)
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured too
    for results in bench.run(ONLY.value, say=_say, peers=PEERS.value):
        if OUT.value:  # after each group, so that a run that is cut short leaves what it has
            records.write(Path(OUT.value), [results], dict(kind=bench.KIND))
    print(markdown_page(bench_page(results)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
