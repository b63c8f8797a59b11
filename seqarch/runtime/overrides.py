"""Errors of --config and of --config.FIELD=VALUE, which override its fields.

config_flags parses them, but its errors are hard to read, and it accepts some mistakes silently.
"""

import functools
import json
import os
import re
import runpy
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from seqarch.errors import UserError, first_line, unknown_field
from seqarch.files import local_path

ROOT = Path(__file__).resolve().parents[2]


class Override(NamedTuple):
    """A --config.FIELD=VALUE of the command line.

    field: dotted name
    value: None for --config.FIELD alone
    """

    field: str
    value: str | None


def with_config_found(argv: Sequence[str]) -> list[str]:
    """Returns `argv` with the path of --config resolved.

    A relative path is in the working directory or, if it is not there, in the repository.
    """
    argv = list(argv)
    if given := _given_config(argv):
        path, colon, argument = given.value.partition(":")
        here = str(local_path(path)) if path else path
        if path and not os.path.exists(here) and (ROOT / here).is_file():
            here = str(ROOT / here)
        argv[given.index] = f"{given.flag}{here}{colon}{argument}"
    return argv


def missing_config(argv: Sequence[str]) -> UserError:
    """Returns the error for a command line without a config, or whose file returns none."""
    if _given_config(argv):
        return no_config(None)
    for argument in argv[1:]:
        if not argument.startswith("-") and argument.partition(":")[0].endswith(".py"):
            return UserError(
                f"unexpected argument {argument!r}; give it as --config={shlex.quote(argument)}"
            )
    return UserError("--config=VALUE is required, such as --config=configs/lm.py:mamba")


def no_config(given: Any) -> UserError:
    """Returns the error for a config file whose get_config returns `given`."""
    kind = "None" if given is None else f"a {type(given).__name__}"
    return UserError(
        f"the config file gives {kind}; its get_config must return a ConfigDict, as configs/lm.py "
        "does"
    )


def explain(argv: Sequence[str]) -> UserError | None:
    """Returns the error for the first override of an unknown field; None if all are known."""
    if (given := _given_config(argv)) is None:
        return None
    path, *argument = given.value.split(":", 1)
    try:
        config = runpy.run_path(path)["get_config"](*argument)
    except (Exception, SystemExit):  # of the file's own code, which config_flags reports
        return None
    if not isinstance(config, ConfigDict):
        return no_config(config)
    return next(filter(None, (_misplaced(each, config) for each in overrides(argv))), None)


def config_function(name: str) -> Callable[..., Any] | None:
    """Returns a function of the config file by its name; None where the file has none.

    What it raises, but for a UserError, becomes one.
    """
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if (function := runpy.run_path(path).get(name)) is None:
        return None

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{name} of the config file fails: {said}") from error

    return called


def config_argument() -> tuple[str, ...]:
    """Returns what --config gives after the colon behind the config file; () where it is none."""
    _, colon, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return (argument,) if colon else ()


def check_tuples(argv: Sequence[str], config: Any) -> None:
    """Raises UserError where one text with commas was given for a field of several values.

    config_flags reads --config.members=gru,mamba as ('gru,mamba',): one hybrid, not two members.
    """
    for field, text in overrides(argv):
        value = config
        for name in field.split("."):
            value = value.get(name) if isinstance(value, ConfigDict) else None
        wrapped = isinstance(value, tuple) and text is not None and value == (text,)
        if wrapped and "," in re.sub(r"\([^()]*\)", "", text):
            items = ",".join(json.dumps(each.strip()) for each in re.split(r",(?![^()]*\))", text))
            several, one = (shlex.quote(each) for each in (f"({items})", f"({json.dumps(text)},)"))
            raise UserError(
                f"--config.{field}={text} is one text with commas; for several values give "
                f"--config.{field}={several}, for one --config.{field}={one}"
            )


def overrides(argv: Sequence[str]) -> list[Override]:
    """Returns the overrides, --config.FIELD=VALUE or --config.FIELD VALUE, in order."""
    found = []
    for index, argument in enumerate(argv):
        if match := re.fullmatch(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL):
            following = argv[index + 1] if index + 1 < len(argv) else "-"
            alone = None if following.startswith("-") else following
            found.append(Override(match[1], alone if match[2] is None else match[2]))
    return found


def _misplaced(override: Override, config: ConfigDict) -> UserError | None:
    level: Any = config
    where = ""
    for name in override.field.split("."):
        if not isinstance(level, ConfigDict):
            return UserError(
                f"config field {where[:-1]} is {level!r} and has no field {name!r}; "
                f"set it with --config.{where[:-1]}=VALUE"
            )
        if name not in level:
            return unknown_field(where + name, _paths(config))
        level, where = level[name], f"{where}{name}."
    if isinstance(level, ConfigDict):
        return UserError(
            f"config field {override.field} is a group of fields; give --config.{where}FIELD=VALUE "
            f"with one of {', '.join(level)}"
        )
    return None


def _paths(level: ConfigDict, where: str = "") -> list[str]:
    """Returns the dotted names of all fields below `level`."""
    found = []
    for name, value in level.items():
        found.append(where + name)
        if isinstance(value, ConfigDict):
            found += _paths(value, f"{where}{name}.")
    return found


class _GivenConfig(NamedTuple):
    """The last --config of a command line.

    index: of the argument with the value
    flag: "--config=", or "" where the value is an argument of its own
    value: FILE or FILE:ARGUMENT
    """

    index: int
    flag: str
    value: str


def _given_config(argv: Sequence[str]) -> _GivenConfig | None:
    """Returns the last --config in `argv`; None where there is none."""
    found = None
    for index, argument in enumerate(argv[1:], 1):
        if match := re.match(r"--?config=", argument):
            found = _GivenConfig(index, match[0], argument[match.end() :])
        elif re.fullmatch(r"--?config", argument) and index + 1 < len(argv):
            found = _GivenConfig(index + 1, "", argv[index + 1])
    return found
