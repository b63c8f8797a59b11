"""Reads checkpoints, compares every array with its saved digest, and tells damage from mistakes.

TensorStore reads the arrays from the files that Orbax writes (OCDBT, zarr). Orbax itself restores
flipped bytes and other dtypes silently, and prints pages of errors where a file is truncated.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tensorstore

from seqarch.errors import UserError
from seqarch.files import has_shape, read_json
from seqarch.training.digest import digests
from seqarch.types import Array

# The shape of a record, see `make_record`; older ones have no step and no config.
RECORD = {"step?": int, "stream": dict, "config?": dict, "arrays": {"*": [str]}}
# What a damaged record raises as it is read.
_UNREADABLE = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError),
    *(ValueError, LookupError, AttributeError, TypeError),
)


class Damaged(Exception):
    """A checkpoint differs from what was saved; one line that names it and what is wrong."""


def steps(directory: str | os.PathLike) -> list[int]:
    """Returns the steps of the complete checkpoints in a directory, ascending.

    Only names that training writes count: 030 and ３０ are no step.
    """
    path = Path(directory)
    names = [each.name for each in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def newest(directory: str | os.PathLike) -> int:
    """Returns the step of the newest complete checkpoint; raises UserError where there is none."""
    if found := steps(directory):
        return found[-1]
    raise none_in(directory)


def none_in(directory: str | os.PathLike) -> UserError:
    """Returns the error for a directory without checkpoints."""
    return UserError(f"no checkpoint in {directory}; train first, or look at --workdir")


def make_record(
    step: int, arrays: Mapping[str, Array], stream: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the record that is saved beside a checkpoint's arrays.

    It has "step", "stream", "config", "arrays": {name: [dtype and shape, digest]}, and "sha256",
    the digest of these.

    Args:
      step: of the state.
      arrays: by name.
      stream: identifies the data stream.
      config: the run's fields that decide its trajectory, by dotted name.
    """
    found = digests(arrays)
    shown = {name: [_show(array), found[name]] for name, array in arrays.items()}
    record = dict(step=step, stream=dict(stream), config=dict(config), arrays=shown)
    return record | dict(sha256=_sha256(record))


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of the checkpoint at `path`.

    Raises:
      Damaged: where the record is missing or was changed.
      UserError: where it cannot be read because of its permissions or the disk, though it may be
        undamaged.
    """
    try:
        record = read_json(path / "record" / "metadata")
        whole = record.pop("sha256") == _sha256(record) and has_shape(record, RECORD)
        whole = whole and all(len(saved) == 2 for saved in record["arrays"].values())
    except _UNREADABLE as error:
        raise Damaged(f"{path} is damaged (its record of digests cannot be read)") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not whole:
        raise Damaged(f"{path} is damaged (its record of digests was changed)")
    return record


def check_origin(path: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Checks that the checkpoint at `path` has the step of its directory's name, and is this run's.

    An older record without a config is not compared with one.

    Args:
      path: the checkpoint's directory, named by its step.
      record: what `read_record` read.
      config: the run's fields that decide its trajectory, by dotted name.

    Raises:
      Damaged: where the directory was renamed or copied from another step.
      UserError: where the run had another config; it names the first field that differs.
    """
    step = _held_step(path, record)
    if step != int(path.name):
        raise Damaged(f"{path} is damaged (it holds step {step}, it was renamed or copied)")
    saved = record.get("config", {})
    for name in sorted(saved.keys() & config.keys()):
        if saved[name] != config[name]:
            raise UserError(
                f"{path} is of a run with {name}={saved[name]!r}, the config has {config[name]!r}; "
                "put this run's own checkpoint there, or move it away"
            )


def _held_step(path: Path, record: Mapping[str, Any]) -> int:
    """Returns the step of the state at `path`, from its array where an older record lacks it."""
    if "step" in record:
        return record["step"]
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    struct = jax.ShapeDtypeStruct((), jnp.int32, sharding=device)
    return int(_read(path, "optimizer", "step", struct))


def read_arrays(path: Path, **items: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    """Returns the arrays of a checkpoint by name, in the order of `items`.

    Args:
      path: the checkpoint's directory.
      items: for "model" and "optimizer", the shape, dtype and sharding of each array by name.

    Raises:
      Damaged: where one cannot be read.
    """
    arrays = {}
    for item, wanted in items.items():
        for name, struct in wanted.items():
            arrays[name] = _read(path, item, name, struct)
    return arrays


def compare(path: Path, record: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises Damaged unless the digests in `found`, by array name, are those of the record."""
    for name, digest in found.items():
        if digest != record["arrays"][name][1]:
            raise Damaged(f"{path} is damaged ({name} is not what was saved)")


def check(
    path: Path,
    record: Mapping[str, Any],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    prefix: str = "",
) -> None:
    """Raises UserError unless the checkpoint at `path` has exactly the wanted arrays.

    Only names that begin with `prefix` are compared.
    """
    saved = {}
    for name, (shown, _) in record["arrays"].items():
        if name.startswith(prefix):
            saved[name] = shown
    made = {name: _show(struct) for name, struct in wanted.items()}
    for name in sorted(saved.keys() | made.keys()):
        old, new = (arrays.get(name, "no such array") for arrays in (saved, made))
        if old != new:
            raise UserError(
                f"{path} has for {name} {old}, the config makes {new}; use the config it was "
                "trained with"
            )


def _read(path: Path, item: str, name: str, struct: jax.ShapeDtypeStruct) -> Array:
    """Returns one array; each process reads the parts of its own devices."""
    store = dict(
        driver="ocdbt",
        base=dict(driver="file", path=f"{os.path.realpath(path / item)}/"),
        path=f"{name}/",
    )
    try:
        array = tensorstore.open(dict(driver="zarr", kvstore=store), open=True, read=True).result()
        if _show(array) == _show(struct):
            return jax.make_array_from_callback(
                struct.shape, struct.sharding, lambda index: array[index].read().result()
            )
    except (ValueError, OSError) as error:  # of TensorStore; errors of devices are no damage
        _check_readable(path)
        raise Damaged(f"{path} is damaged ({name} cannot be read)") from error
    raise Damaged(f"{path} is damaged ({name} has another shape or dtype than was saved)")


def _check_readable(path: Path) -> None:
    """Raises UserError where the system cannot read a file below `path`, which may be undamaged."""

    def refuse(error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            raise _unreadable(path, error) from error

    for directory, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    while file.read(1 << 20):
                        pass
            except OSError as error:
                refuse(error)


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read: {error.strerror}; see to that and run the same command again"
    )


def _show(array: Any) -> str:
    dtype = array.dtype
    return f"{dtype.name}{list(array.shape)}"


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
