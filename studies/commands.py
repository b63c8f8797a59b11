"""The commands that README.md and docs/ show.

A command is an indented line that begins with a program; a backslash continues it, and what follows
two spaces and a # is a comment.
"""

import re
from pathlib import Path

PROGRAMS = ("python", "bash", "pip", "source", "tensorboard")
SHOWN = re.compile(rf"^ {{4,}}((?:{'|'.join(PROGRAMS)}) (?:.*\\\n)*.*)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Returns the commands that a page shows, each on one line, in their order."""
    found = []
    for command in SHOWN.findall(page.read_text("utf-8")):
        joined = re.sub(r"\s*\\\n\s*", " ", command)
        found.append(re.sub(r"\s{2,}#.*", "", joined).strip())
    return found
