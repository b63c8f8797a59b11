"""Reading checkpoints: every array is compared with the digest that was kept with it, and damage is
told from mistakes.

Arrays are read by TensorStore from the files that Orbax writes (OCDBT, zarr), not by Orbax, which
restores flipped bytes and other dtypes silently and prints pages where a file is short.
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

RECORD = {"step?": int, "stream": dict, "config?": dict, "arrays": {"*": [str]}}  # see make_record


class Damaged(Exception):
    """A checkpoint that is not what was saved; one line that names it and what is wrong."""


def steps(directory: str | os.PathLike) -> list[int]:
    """Returns the steps in a run's checkpoints/ that were written to the end, ascending.

    Only names that training writes count: 030 and ３０ are no step.
    """
    path = Path(directory)
    names = [each.name for each in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def newest(directory: str | os.PathLike) -> int:
    """The last of them; raises UserError where there is none."""
    if found := steps(directory):
        return found[-1]
    raise none_in(directory)


def none_in(directory: str | os.PathLike) -> UserError:
    return UserError(f"no checkpoint in {directory}; train first, or look at --workdir")


def make_record(
    step: int,
    arrays: Mapping[str, Array],
    stream: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the record that is kept beside a checkpoint's arrays.

    It has "step", "stream", "config", "arrays": {name: [dtype and shape, digest]}, and "sha256",
    the digest of all the others.
    """
    found = digests(arrays)
    shown = {name: [_show(array), found[name]] for name, array in arrays.items()}
    record = dict(step=step, stream=dict(stream), config=dict(config), arrays=shown)
    return record | dict(sha256=_sha256(record))


def read_record(path: Path) -> dict[str, Any]:
    """The record of the checkpoint at `path`; raises Damaged where it is missing or is not what was
    written.

    A file that cannot be read now, by its permissions or a failing disk, may be whole: that is a
      UserError.
    """
    try:
        record = read_json(path / "record" / "metadata")
        whole = record.pop("sha256") == _sha256(record) and has_shape(record, RECORD)
        whole = whole and all(len(saved) == 2 for saved in record["arrays"].values())
    except (
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise Damaged(f"{path} is damaged (its record of digests cannot be read)") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; see to that and run the same command again"
        ) from error
    if not whole:
        raise Damaged(f"{path} is damaged (its record of digests was changed)")
    return record


def check_origin(path: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Checks that the checkpoint at `path` is of the step that its directory names, and of this
    run.

    Records that were written before they held a config are not compared with one.

    Args:
        path: the checkpoint's directory, named by its step.
        record: what `read_record` read.
        config: the run's fields that decide its trajectory, by dotted name.

    Raises:
        Damaged: where the directory was renamed or copied from another step.
        UserError: where the checkpoint is of a run with another config; names the first field.
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
    """Returns the step of the state at `path`; where an older record lacks it, its array has it."""
    if "step" in record:
        return record["step"]
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    struct = jax.ShapeDtypeStruct((), jnp.int32, sharding=device)
    return int(_read(path, "optimizer", "step", struct))


def read_arrays(path: Path, **items: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    """The arrays of `items`, each sharded as asked, by name and in their order; raises Damaged
    where one cannot be read.
    """
    return {
        name: _read(path, item, name, struct)
        for item, wanted in items.items()
        for name, struct in wanted.items()
    }


def compare(path: Path, record: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises Damaged where a digest in `found`, of the array of that name, is not the one that was
    saved with it.
    """
    for name, digest in found.items():
        if digest != record["arrays"][name][1]:
            raise Damaged(f"{path} is damaged ({name} is not what was saved)")


def check(
    path: Path,
    record: Mapping[str, Any],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    prefix: str = "",
) -> None:
    """Raises UserError at the first array, by name, that differs between the checkpoint's with
    `prefix` and `wanted`.
    """
    saved = {
        name: shown for name, (shown, _) in record["arrays"].items() if name.startswith(prefix)
    }
    made = {name: _show(struct) for name, struct in wanted.items()}
    for name in sorted(saved.keys() | made.keys()):
        old, new = (arrays.get(name, "no such array") for arrays in (saved, made))
        if old != new:
            raise UserError(
                f"{path} has for {name} {old}, the config makes {new}; use the config it was "
                "trained with"
            )


def _read(path: Path, item: str, name: str, struct: jax.ShapeDtypeStruct) -> Array:
    """One array; each process reads the parts that its devices hold."""
    store = dict(
        driver="ocdbt",
        base=dict(driver="file", path=f"{os.path.realpath(path / item)}/"),
        path=f"{name}/",
    )
    try:
        array = tensorstore.open(dict(driver="zarr", kvstore=store), open=True, read=True).result()
        if _show(array) == _show(struct):
            part = lambda index: array[index].read().result()
            return jax.make_array_from_callback(struct.shape, struct.sharding, part)
    except (
        ValueError,
        OSError,
    ) as error:  # TensorStore's words; what devices say, such as out of memory, is no damage
        _check_readable(path)
        raise Damaged(f"{path} is damaged ({name} cannot be read)") from error
    raise Damaged(f"{path} is damaged ({name} has another shape or dtype than was saved)")


def _check_readable(path: Path) -> None:
    """Raises UserError where the system refuses to read a file below `path`, which may be whole."""

    def refuse(error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            line = (
                f"{path} cannot be read: {error.strerror}; see to that and run the same "
                "command again"
            )
            raise UserError(line) from error

    for directory, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    while file.read(1 << 20):
                        pass
            except OSError as error:
                refuse(error)


def _show(array: Any) -> str:
    dtype = array.dtype
    return f"{dtype.name}{list(array.shape)}"


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
