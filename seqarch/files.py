"""Local paths, JSON, and files that are replaced atomically, so that none is ever half written."""

import contextlib
import glob
import json
import os
import re
import shutil
import socket
import time
import uuid
from pathlib import Path
from typing import Any, get_args

from seqarch.errors import UserError

MAX_DEPTH = 64  # levels of nested lists and objects in any JSON that is read
DEAD_AFTER_S = 24 * 3600  # age from which a partial file of another host is removed
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<process>\d+)\.[0-9a-f]{12}\.partial")


def local_path(given: str | os.PathLike) -> Path:
    """Returns `given` as a path of this machine; ~ is the user's directory.

    Raises:
      UserError: for a URL such as gs://bucket/run, which would become a directory named gs: here;
        for ~somebody where there is no such user; and for a null byte.
    """
    text = os.fspath(given)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text):
        raise UserError(
            f"{text} is a URL; give a path of this machine, such as a bucket that is mounted as "
            "a directory"
        )
    if "\0" in text:
        raise UserError(f"{text!r} is no path: it holds a null byte")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{text}: there is no home directory for {text.split('/')[0]}; write the path out"
        ) from error


def cache_directory() -> Path:
    """Returns the directory of cached files: seqarch/ in $XDG_CACHE_HOME, or in ~/.cache.

    Raises:
      UserError: where there is neither, as for a user without a home directory in a container.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return local_path(given) / "seqarch"
    try:
        return Path.home() / ".cache" / "seqarch"
    except RuntimeError as error:
        raise UserError(
            "this user has no home directory; set HOME, or XDG_CACHE_HOME to a directory that can "
            "be written"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON text.

    Raises:
      ValueError: where it is not JSON, or is nested deeper than MAX_DEPTH, so that recursion over
        the value is safe.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return value
    raise ValueError("it nests too deep")


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file; raises OSError, and ValueError as `parse_json` does."""
    return parse_json(path.read_bytes())


def has_shape(value: Any, shape: Any) -> bool:
    """Returns whether a JSON value has a shape: a type or union, [shape of items] or {name: shape}.

    A name that ends in "?" may be absent, and "*" stands for all other names. A bool is no int.

        has_shape(record, {"step": int, "arrays": {"*": [str]}, "config?": dict})
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(has_shape(each, shape[0]) for each in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            _has_field(value, name, of) for name, of in shape.items()
        )
    is_allowed = not isinstance(value, bool) or bool in (shape, *get_args(shape))
    return isinstance(value, shape) and is_allowed


def find_json(path: Path, shape: Any) -> Any:
    """Returns the value of a JSON file; None where it cannot be read or has another shape."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if has_shape(value, shape) else None


def _has_field(value: dict, name: str, shape: Any) -> bool:
    if name == "*":
        return all(has_shape(each, shape) for each in value.values())
    known = name.removesuffix("?")
    return has_shape(value[known], shape) if known in value else known != name


def partial_name(name: str) -> str:
    """Returns the name of a file while it is written, which contains the host and the process."""
    return f".{name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:12]}.partial"


def clear_partial(directory: Path, name: str | None = None, suffix: str = "") -> None:
    """Removes partial files and directories of processes that were killed.

    Those of processes that are running on this host stay, and those of other hosts until they are
    DEAD_AFTER_S old.

    Args:
      directory: where they are.
      name: of the file or directory that was being written; None: any.
      suffix: what was added to `partial_name(name)`.
    """
    with contextlib.suppress(OSError):
        for path in directory.glob(f".*{glob.escape('.partial' + suffix)}"):
            match = _PARTIAL.fullmatch(path.name.removesuffix(suffix))
            if match and name in (None, match["name"]) and _is_dead(path, **match.groupdict()):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_dead(path: Path, name: str, host: str, process: str) -> bool:
    if host == _host():
        return not _is_running(int(process))
    touched = max(each.stat().st_mtime for each in (path, *path.rglob("*")))
    return time.time() - touched > DEAD_AFTER_S


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname())[:32] or "-"


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, atomically.

    Of several processes that write the same file, the last one's text stays.
    """
    clear_partial(path.parent, path.name)
    partial = path.with_name(partial_name(path.name))
    try:
        partial.write_text(text, "utf-8", "surrogateescape")
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # in place of the partial name
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
