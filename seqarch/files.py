"""Files that are replaced at once, so that no reader and no crash sees half of one."""

import json
import uuid
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Of several processes that write the same file each writes whole; the last one's stays."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
