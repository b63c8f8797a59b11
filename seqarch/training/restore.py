"""Reading checkpoints: every array is compared with the digest that was kept with it, and damage is told from mistakes.

Arrays are read by TensorStore from the files that Orbax writes (OCDBT, zarr), not by Orbax, which restores flipped bytes
and other dtypes silently and prints pages where a file is short.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tensorstore

from seqarch.errors import UserError
from seqarch.training.digest import digests
from seqarch.types import Array


class Damaged(Exception):
    """A checkpoint that is not what was saved; one line that names it and what is wrong."""


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps in a run's checkpoints/ that were written to the end, ascending."""
    path = Path(directory)
    return sorted(int(each.name) for each in path.iterdir() if each.name.isdecimal()) if path.is_dir() else []


def newest(directory: str | os.PathLike) -> int:
    """The last of them; raises UserError where there is none."""
    if found := steps(directory):
        return found[-1]
    raise none_in(directory)


def none_in(directory: str | os.PathLike) -> UserError:
    return UserError(f"no checkpoint in {directory}; train first, or look at --workdir")


def make_record(arrays: Mapping[str, Array], stream: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept beside a checkpoint's arrays: {"stream", "arrays": {name: [dtype and shape, digest]}, "sha256"}."""
    found = digests(arrays)
    record = dict(stream=dict(stream), arrays={name: [_show(array), found[name]] for name, array in arrays.items()})
    return record | dict(sha256=_sha256(record))


def read_record(path: Path) -> dict[str, Any]:
    """The record of the checkpoint at `path`; raises Damaged where it is missing or is not what was written.

    A file that cannot be read now, by its permissions or a failing disk, may be whole: that is a UserError.
    """
    try:
        record = json.loads((path / "record" / "metadata").read_text())
        whole = record.pop("sha256") == _sha256(record)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise Damaged(f"{path} is damaged (its record of digests cannot be read)") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; see to that and run the same command again") from error
    if not whole:
        raise Damaged(f"{path} is damaged (its record of digests was changed)")
    return record


def read_arrays(path: Path, **items: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    """The arrays of `items`, each sharded as asked, by name and in their order; raises Damaged where one cannot be read."""
    return {name: _read(path, item, name, struct) for item, wanted in items.items() for name, struct in wanted.items()}


def compare(path: Path, record: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises Damaged where a digest in `found`, of the array of that name, is not the one that was saved with it."""
    for name, digest in found.items():
        if digest != record["arrays"][name][1]:
            raise Damaged(f"{path} is damaged ({name} is not what was saved)")


def check(path: Path, record: Mapping[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct], prefix: str = "") -> None:
    """Raises UserError at the first array, by name, that differs between the checkpoint's with `prefix` and `wanted`."""
    saved = {name: shown for name, (shown, _) in record["arrays"].items() if name.startswith(prefix)}
    made = {name: _show(struct) for name, struct in wanted.items()}
    for name in sorted(saved.keys() | made.keys()):
        old, new = (arrays.get(name, "no such array") for arrays in (saved, made))
        if old != new:
            raise UserError(f"{path} has for {name} {old}, the config makes {new}; use the config it was trained with")


def _read(path: Path, item: str, name: str, struct: jax.ShapeDtypeStruct) -> Array:
    """One array; each process reads the parts that its devices hold."""
    store = dict(driver="ocdbt", base=dict(driver="file", path=f"{(path / item).resolve()}/"), path=f"{name}/")
    try:
        array = tensorstore.open(dict(driver="zarr", kvstore=store), open=True, read=True).result()
        if _show(array) == _show(struct):
            part = lambda index: array[index].read().result()
            return jax.make_array_from_callback(struct.shape, struct.sharding, part)
    except (ValueError, OSError) as error:  # TensorStore's words; what devices say, such as out of memory, is no damage
        raise Damaged(f"{path} is damaged ({name} cannot be read)") from error
    raise Damaged(f"{path} is damaged ({name} has another shape or dtype than was saved)")


def _show(array: Any) -> str:
    dtype = array.dtype
    return f"{dtype.name}{list(array.shape)}"


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
