"""Local paths as users give them, and files that are replaced at once, so that no reader and no
crash sees half of one.
"""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from seqarch.errors import UserError


def local_path(given: str | os.PathLike) -> Path:
    """Returns `given` as a path of this machine; ~ is the user's directory.

    Raises:
      UserError: for a URL such as gs://bucket/run, which would become a directory named gs: here.
    """
    text = os.fspath(given)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text):
        raise UserError(
            f"{text} is a URL; give a path of this machine, such as a bucket that is mounted as "
            "a directory"
        )
    return Path(text).expanduser()


def cache_directory() -> Path:
    """The directory of what can be made again: seqarch/ in $XDG_CACHE_HOME, or in ~/.cache."""
    return local_path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqarch"


def write_text(path: Path, text: str) -> None:
    """Of several processes that write the same file each writes whole; the last one's stays."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
