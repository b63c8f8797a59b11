"""A walk through the commands that pages show: each is run as it is written, and timed."""

import os
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from seqarch import records
from seqarch.errors import UserError
from seqarch.provenance import provenance
from seqarch.records import Record, Results, Source
from seqarch.report.formats import show
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table
from seqarch.runtime.progress import duration
from studies.commands import PROGRAMS, commands

KIND = "walk"  # of the records file
SERVERS = ("tensorboard",)  # they run until they are stopped
ENVIRONMENT = "[ -e .venv/bin/activate ] && source .venv/bin/activate"


class RanCommand(NamedTuple):
    """A command that ran.

    Attributes:
      command: as it is shown.
      code: its exit code.
      said: the last line that it printed.
      seconds: the time that it took.
      load: processes that wanted a core before it began, on average over a minute.
    """

    command: str
    code: int
    said: str
    seconds: float
    load: float


def walk(root: Path, pages: Sequence[Path], skip: Collection[str] = ()) -> Iterator[RanCommand]:
    """Runs the commands of pages as they are written, once each, from the root of the repository.

    Args:
      root: of the repository.
      pages: files in markdown.
      skip: beginnings of commands that are left out; servers are left out too.

    Raises:
      UserError: where no command is left.
    """
    shown = dict.fromkeys(command for page in pages for command in commands(page))
    left = [command for command in shown if not command.startswith((*SERVERS, *skip))]
    if not left:
        raise UserError(
            f"{', '.join(map(str, pages))} shows no command to run; a command is an indented line "
            f"that begins with one of {', '.join(PROGRAMS)}"
        )
    for command in left:
        began, load = time.monotonic(), os.getloadavg()[0]
        done = subprocess.run(
            ["bash", "-c", f"{ENVIRONMENT}\n{command}"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines() or [""]
        yield RanCommand(command, done.returncode, lines[-1], time.monotonic() - began, load)


def write(path: Path, outcomes: Sequence[RanCommand]) -> Results:
    """Writes what commands took as records, in place of what `path` has of the same commands."""
    known = records.read(path).results[0].records if path.exists() else ()
    found: dict[str, list[Record]] = {}
    for each in known:
        found.setdefault(each.at["command"], []).append(each)
    for command, code, said, seconds, load in outcomes:
        at = dict(command=command)
        found[command] = [
            Record(KIND, "seconds", seconds, at, note=said),
            Record(KIND, "exit_code", code, at),
            Record(KIND, "load", load, at),
        ]
    made = Source(KIND, "program", provenance=provenance())
    results = Results(made, tuple(each for all in found.values() for each in all))
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, [results], dict(kind=KIND))
    return results


def walk_page(results: Sequence[Results]) -> Page:
    """Returns the page of a records file: a row for each command."""
    (found,) = results
    columns = (
        Column("command", "code"),
        Column("time"),
        Column("load", "ratio"),
        Column("exit code"),
    )
    rows = []
    for each in found.all(KIND, "seconds"):
        code = int(found.value(KIND, "exit_code", **each.at))
        load = found.value(KIND, "load", **each.at)
        rows.append(Row((each.at["command"], duration(each.value), load, str(code))))
    host = found.source.provenance.get("host", {})
    caption = (
        f"Run as written, at revision {show(found.source.revision, 'revision')} on "
        f"{host.get('cpus', 'unknown')} CPU cores, by `python scripts/walk.py`. Load: processes "
        "that wanted a core before the command began; a quiet machine has none."
    )
    return Page("Commands", [Table("Commands", caption, columns, tuple(rows))])
