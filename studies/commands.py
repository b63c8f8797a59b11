"""The commands that README.md and docs/ show, and a walk through them.

A command is an indented line that begins with a program; a backslash continues it, and what follows
two spaces and a # is a comment.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("python", "bash", "pip", "source", "tensorboard")
SHOWN = re.compile(rf"^ {{4,}}((?:{'|'.join(PROGRAMS)}) (?:.*\\\n)*.*)$", re.MULTILINE)
SERVERS = ("tensorboard",)  # they run until they are stopped
ENVIRONMENT = "[ -e .venv/bin/activate ] && source .venv/bin/activate"


class Outcome(NamedTuple):
    """A command that ran, its exit code and the last line that it printed."""

    command: str
    code: int
    said: str


def commands(page: Path) -> list[str]:
    """Returns the commands that a page shows, each on one line, in their order."""
    found = []
    for command in SHOWN.findall(page.read_text("utf-8")):
        joined = re.sub(r"\s*\\\n\s*", " ", command)
        found.append(re.sub(r"\s{2,}#.*", "", joined).strip())
    return found


def walk(root: Path, pages: Sequence[Path]) -> Iterator[Outcome]:
    """Runs the commands of pages as they are written, once each, from the root of the repository.

    Servers are left out.
    """
    shown = dict.fromkeys(command for page in pages for command in commands(page))
    for command in shown:
        if command.split()[0] in SERVERS:
            continue
        done = subprocess.run(
            ["bash", "-c", f"{ENVIRONMENT}\n{command}"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines() or [""]
        yield Outcome(command, done.returncode, lines[-1])
