"""What every program shares: flags in, one line out for a mistake, no library chatter, no silent
CPU.

    from absl import flags
    WORKDIR = cli.define_path("workdir", None, "...", required=True)

    def main() -> None: ...

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0 done; 2 a mistake of the user's, or a full disk, told in one line on stderr; 130
Ctrl-C and 143 SIGTERM, once training has saved; 134 when another process of the cluster is gone,
told in one line; 141 when nobody reads on. Anything else is a bug, with its traceback, or a signal
that ends a process at once, such as 137.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from absl import app, flags

from seqarch.errors import Stopped, UserError, is_full_disk, unknown
from seqarch.files import local_path
from seqarch.runtime.accelerator import check_accelerator
from seqarch.runtime.cluster import held_for_abort, join_cluster
from seqarch.runtime.process import keep_memory, quiet

flags.disclaim_key_flags()  # `define_path` defines flags of the programs that call it


def run(
    main: Callable[..., None],
    argv: list[str] | None = None,
    positional: tuple[str, ...] = (),
    more: bool = False,
) -> NoReturn:
    """Parses the command line into `flags.FLAGS`, runs `main` with the arguments that `positional`
    names, and exits.

    more: whether further arguments may follow
    """
    quiet()
    keep_memory()
    try:
        arguments = parse_flags(sys.argv if argv is None else argv, positional, more)
        join_cluster()
        check_accelerator()
        with held_for_abort():
            main(*arguments)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; give another path")
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not is_full_disk(error):
            raise
        _fail("the disk is full; free some space and run the same command again")
    sys.exit(0)


def _fail(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


class _Path(flags.ArgumentParser):
    """A path of this machine; shells don't put the user's directory for ~ in the middle of
    --flag=~/path.
    """

    def parse(self, argument: str) -> str:
        return str(local_path(argument)) if argument else argument


def define_path(name: str, default: str | None, help: str, **options: Any) -> flags.FlagHolder:
    """A flag that takes a path."""
    return flags.DEFINE(
        _Path(), name, default, help, serializer=flags.ArgumentSerializer(), **options
    )


def define_allow_modules() -> flags.FlagHolder:
    """A flag of the programs that read runs: the modules that their configs may have imported."""
    help = (
        "Modules and packages of your own mixers that a run's config may have imported, such "
        "as my_package,my_mixers."
    )
    return flags.DEFINE_list("allow_modules", [], help)


def parse_flags(argv: list[str], positional: tuple[str, ...] = (), more: bool = False) -> list[str]:
    """The arguments that are no flags, of which there must be as many as names in `positional`, or
    `more`.

    absl's parser and config_flags', with every way of failing turned into a UserError."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:
            getattr(
                flags.FLAGS[name].value, "lock", None
            )  # a config file that could not be read raises here
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, argv) from error
    except (KeyError, AttributeError) as error:
        raise _unknown_field(str(error)) from error
    except (flags.Error, OSError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    except UserError:
        raise
    except Exception as error:  # in the config file, which is the user's program
        raise UserError(
            _one_line(f"the config file fails: {type(error).__name__}: {error}")
        ) from error
    if len(rest) > 1 + len(positional) and not more:
        raise UserError(
            f"unexpected argument {rest[1 + len(positional)]!r}; flags look like --name=value"
        )
    if len(rest) <= len(positional):
        raise UserError(f"{positional[len(rest) - 1]} is missing; give {' '.join(positional)}")
    return rest[1:]


def readable(texts: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """What `read` makes of each text of a list flag; a mistake costs a line, and the rest goes on
    if there is any.
    """
    found, errors = [], []
    for text in list(texts) or [""]:
        try:
            found.append(read(text))
        except UserError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    return found


def _unknown_flag(name: str, argv: list[str]) -> UserError:
    if name.startswith("config."):
        return UserError(f"--{name} overrides a field of --config=FILE, which was not given")
    return unknown(
        "flag",
        f"--{name}",
        [f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(argv[0])],
    )


def _unknown_field(message: str) -> UserError:
    """From config_flags' KeyError or AttributeError: 'optm' Did you mean "optim" instead of
    "optm"?
    """
    hint = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', message)
    if hint is None:
        return UserError(f"the config fails: {_one_line(message)}")
    return UserError(f"unknown config field {hint[2]!r}; did you mean {hint[1]!r}?")


def _one_line(text: str) -> str:
    if (
        "Error whilst parsing config file" in text
    ):  # a TypeError or ValueError in get_config, with its traceback inside
        return "the config file fails: " + text.strip().splitlines()[-1]
    if missing := re.search(r"No such file or directory: (.+)$", text):
        return f"no config file {missing[1]}; they are in configs/, such as configs/lm.py:mamba"
    if (
        "is defined twice" in text
    ):  # of config_flags' overrides, once for each time that the file is named
        return "--config is given twice; give it once"
    if early := re.search(r"Found (--\S+) in argv before a value for --config", text):
        return f"give --config=FILE before {early[1]}, which overrides one of its fields"
    if required := re.search(r"Flag (--\S+) must have a value", text):
        return f"{required[1]}=VALUE is required"
    return re.sub(r"\s*\n\s*", "; ", text.strip())
