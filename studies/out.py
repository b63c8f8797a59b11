"""The records file of a study, to which records are added as its runs end."""

from pathlib import Path

from seqarch import records
from seqarch.errors import UserError


def check(path: Path, kind: str) -> None:
    """Makes the directory of a file for records of a kind; call it before anything is run.

    Raises:
      UserError: where the file holds other records, or its directory cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make --out {path.parent}: {error.strerror}; give a directory that can be "
            "written"
        ) from error
    if path.exists() and records.read(path).about.get("kind") != kind:
        raise UserError(f"{path} holds no {kind} records; give another --out")
