"""Compares two runs.

    python scripts/diff.py RUN_A RUN_B

Prints the config fields in which they differ, and the difference of their bits per byte on the same
held-out documents with its 95 % interval, from a paired bootstrap over documents. A run's records
are used where they are of the latest checkpoint and of this split; other scores are computed.
Nothing is written.
"""

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

SPLIT = flags.DEFINE_string("split", "validation", "The held-out text: validation or test.")
LIMIT = flags.DEFINE_integer(
    "limit", None, "Bytes of each document; default: the smaller of the two runs' eval.limit.", 0
)
ALLOW_MODULES = cli.define_allow_modules()


def main(a: str, b: str) -> None:
    from seqarch.compare.difference import config_difference, quality_difference
    from seqarch.report.difference import config_lines, quality_lines

    for line in [f"A: {a}", f"B: {b}", "", *config_lines(config_difference(a, b)), ""]:
        print(line, flush=True)
    quality = quality_difference(a, b, SPLIT.value, LIMIT.value, ALLOW_MODULES.value)
    print("\n".join(quality_lines(quality)))


if __name__ == "__main__":
    cli.run(main, positional=("RUN_A", "RUN_B"))
