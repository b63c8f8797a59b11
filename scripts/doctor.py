"""Says what this machine has and whether it works, in the first minutes on a new device.

    python scripts/doctor.py

Prints versions, devices with their memory, the form that each mixer takes here, the speed of a
product against the device's data sheet, and a train step of several models, with the time that the
device's compiler estimates and that of the roofline. All of it together is what a report of a bug
needs.
"""

import sys

import _root  # noqa: F401
from seqarch.runtime import cli


def main() -> None:
    from benchmarks.doctor import examine
    from seqarch.report.render import text_table

    for table in examine(lambda line: print(line, file=sys.stderr, flush=True)):
        print(f"{table.title}\n\n{text_table(table)}\n", flush=True)


if __name__ == "__main__":
    cli.run(main)
