"""The run directory: its config (config.json) and the provenance of its numbers (run.json).

It holds only data: JSON, arrays, events. Nothing in it is executed or unpickled, so a stranger's
run can be read safely. A mixer that its config names as package.module:Class is imported only if
the user allows that module, and never from the directory.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from seqarch.config import Config, parse, recorded_forms, to_dict, with_recorded_forms
from seqarch.config.values import values_of
from seqarch.errors import UserError, naming, printable
from seqarch.files import has_shape, local_path, read_json, write_json
from seqarch.mixers import check_import
from seqarch.patterns import read_pattern

# Fields of a config that may differ between the starts of one run. `steps` stretches the
# learning-rate schedule; the others do not change the trajectory (the checkpoint refuses a text of
# other content). run.json keeps the config of every start.
MAY_CHANGE = (
    *("steps", "log_every", "profile", "checkpoint"),
    *("eval", "evals", "mesh", "data", "trackers"),
)

# The shape of each start's record in run.json.
START = {
    **{"versions": dict, "host": dict, "devices": dict, "config?": dict},
    **{"mixer?": str, "encoder?": str, "source?": str},
}


def read_config(run_dir: str | os.PathLike, allow_modules: Iterable[str] = ()) -> Config:
    """Returns the config of a run, whose mixers may then be imported.

    Args:
      run_dir: the run's directory.
      allow_modules: modules and packages that may be imported because the config names them,
        beside those that this process has imported already.

    Raises:
      UserError: where `run_dir` is no run, or its config names a module that is not allowed.
    """
    config = stored_config(run_dir)
    for pattern in config.model.patterns.values():
        for layer in read_pattern(pattern):
            module, colon, _ = layer.mixer.partition(":")
            if colon:
                check_import(module, allow_modules, Path(run_dir))
    return config


def runs_below(directory: str | os.PathLike) -> list[Path]:
    """Returns the directories of runs in that of a comparison or of a sweep."""
    top = Path(directory)
    found = [*top.glob("*/config.json"), *top.glob("*/*/config.json")]
    return sorted(path.parent for path in found)


def stored_config(run_dir: str | os.PathLike) -> Config:
    """Returns the config of a run for comparison; its mixers must not be imported.

    Raises:
      UserError: where `run_dir` is no run, or its config.json is not what train.py wrote.
    """
    path = Path(run_dir) / "config.json"
    try:
        given = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        below = runs_below(run_dir)
        wanted = f"a run in it, such as {below[0]}" if below else "what train.py had as --workdir"
        raise UserError(
            f"{run_dir} is no run directory (it has no config.json); give {wanted}"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no config that train.py wrote: {error}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} is no config that train.py wrote: it holds {given!r:.40}")
    with naming(str(path)):
        return parse(given)


def config_before(run_dir: str | os.PathLike) -> Config | None:
    """Returns the config of the run's last start; None where there was none."""
    return stored_config(run_dir) if (Path(run_dir) / "config.json").exists() else None


def with_forms_before(run_dir: str | os.PathLike, config: Config, mesh: Mesh) -> Config:
    """Returns `config` with the forms of the run's last start, if there was one.

    A run with this model on devices of this kind keeps its forms, whatever was tuned since. Forms
    that the config names stay.
    """
    if (before := _last_start(run_dir)) is None:
        return config
    same = before.get("config", {}).get("model") == to_dict(config)["model"]
    here = before["devices"].get("kind") == mesh.devices.flat[0].device_kind
    recorded = {name: before[name] for name in recorded_forms(config.model) if name in before}
    if not (same and here and recorded):
        return config
    try:
        model = with_recorded_forms(config.model, recorded)
    except (UserError, TypeError) as error:
        raise _no_record(Path(run_dir) / "run.json") from error
    return dataclasses.replace(config, model=model)


def check(run_dir: str | os.PathLike, config: Config) -> None:
    """Makes the run directory and checks that a run with `config` can be in it.

    Raises:
      UserError: where it cannot be written, or has a run with another config, whose first
        differing field it names.
    """
    if not os.fspath(run_dir):
        raise UserError("--workdir is empty; give the run's directory")
    path = local_path(run_dir)
    if printable(str(path)) != str(path):
        raise UserError(
            f"--workdir {run_dir} has bytes that are no UTF-8, or control characters; give a "
            "directory with another name"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make --workdir {run_dir}: {error.strerror}; give a directory that can be "
            "written"
        ) from error
    if not os.access(path, os.W_OK):
        raise UserError(
            f"cannot write to --workdir {run_dir}; give a directory that can be written"
        )
    if not (path / "config.json").exists():
        return
    theirs, ours = (deciding_fields(each) for each in (stored_config(run_dir), config))
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{run_dir} holds a run with {name}={theirs.get(name)!r}, "
                f"the config has {value!r}; use that config to continue it, or another --workdir"
            )


def deciding_fields(config: Config) -> dict[str, Any]:
    """Returns the fields that decide a run's trajectory, by dotted name: all but MAY_CHANGE."""
    fields = values_of(config)
    return {name: fields[name] for name in fields if name.split(".")[0] not in MAY_CHANGE}


def changes(run_dir: str | os.PathLike, record: dict[str, Any]) -> str:
    """Returns the differences from the last start on which bits depend, as text, or "".

    Such as "jaxlib 0.10.1 -> 0.10.2, cpus 2 -> 4". Of the source only the revision is compared, not
    uncommitted changes.
    """
    if (before := _last_start(run_dir)) is None:
        return ""
    old, new = (_decisive(each) for each in (before, record))
    differing = [name for name in new if name in old and old[name] != new[name]]
    return ", ".join(f"{name} {old[name]} -> {new[name]}" for name in differing)


def _last_start(run_dir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the record of a run's last start; None where there was none."""
    first = read_record(run_dir)
    return None if first is None else [first, *first["continued"]][-1]


def _decisive(record: dict[str, Any]) -> dict[str, Any]:
    devices, host = record["devices"], record["host"]
    cpu = host.get("cpu") if devices.get("platform") == "cpu" else None
    named = dict(
        cpu=cpu, cpus=host.get("cpus"), device=devices.get("kind"), devices=devices.get("count")
    )
    return dict(revision=record.get("revision")) | record["versions"] | named


def write(run_dir: str | os.PathLike, config: dict[str, Any], record: dict[str, Any]) -> None:
    """Writes config.json and run.json for one start.

    run.json holds the first start's record and config, and a list of those of later starts in
    "continued".
    """
    record, first = record | dict(config=config), read_record(run_dir)
    if first is None:
        whole = record | dict(continued=[])
    else:
        whole = first | dict(continued=[*first["continued"], record])
    write_json(Path(run_dir) / "run.json", whole)
    write_config(run_dir, config)


def write_config(run_dir: str | os.PathLike, config: dict[str, Any]) -> None:
    """Writes config.json."""
    write_json(Path(run_dir) / "config.json", config)


def read_record(run_dir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the value of run.json; None where there is none.

    Raises:
      UserError: where it is not what `write` wrote.
    """
    path = Path(run_dir) / "run.json"
    try:
        record = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise _no_record(path) from error
    if not has_shape(record, START | {"continued": [START]}):
        raise _no_record(path)
    return record


def _no_record(path: Path) -> UserError:
    return UserError(
        f"{path} is no record that train.py wrote; move it away, and the next start writes one"
    )
