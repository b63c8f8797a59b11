"""The frame of every program: flags, one line for a mistake, quiet libraries, no silent CPU.

    from absl import flags
    WORKDIR = cli.define_path("workdir", None, "...", required=True)

    def main() -> None: ...

    if __name__ == "__main__":
        cli.run(main)

Exit codes:

    0        done
    2        a mistake of the user's, or a full disk, with one line on stderr
    130, 143 Ctrl-C and SIGTERM, once training has saved
    134      another process of the cluster is gone, with one line on stderr
    141      the reader of stdout is gone, as in `| head`

Any other code is that of a bug, with its traceback, or of a signal that ends a process at once,
such as 137.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from seqarch.errors import Stopped, UserError, is_full_disk, printable, printable_line
from seqarch.files import local_path
from seqarch.runtime.accelerator import check_accelerator
from seqarch.runtime.cluster import held_for_abort, join_cluster
from seqarch.runtime.command_line import INT_END, one_line, parse_flags
from seqarch.runtime.help import help_text
from seqarch.runtime.process import keep_memory, quiet
from seqarch.runtime.streams import open_streams, printable_stdout

HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")
LONGEST = 20  # characters of a length; int() refuses thousands of them

flags.disclaim_key_flags()  # `define_path` defines flags of the programs that call it


def run(
    main: Callable[..., None],
    argv: list[str] | None = None,
    positional: tuple[str, ...] = (),
    more: bool = False,
    device: bool = True,
) -> NoReturn:
    """Parses the command line into `flags.FLAGS`, runs `main` and exits.

    Args:
      main: the program; it takes the positional arguments.
      argv: the command line; default: sys.argv.
      positional: names of the positional arguments.
      more: whether further positional arguments may follow.
      device: whether the program computes with JAX, and so joins a cluster and needs devices.
    """
    quiet()
    open_streams()
    with printable_stdout(), _one_line_for_mistakes():
        argv = sys.argv if argv is None else argv
        if set(HELP) & set(argv[1:]):
            print(help_text(argv[0]))
        else:
            arguments = parse_flags(argv, positional, more)
            if device:
                keep_memory()
                join_cluster()
                check_accelerator()
            with held_for_abort():
                main(*arguments)
        sys.stdout.flush()
    sys.exit(0)


@contextlib.contextmanager
def _one_line_for_mistakes() -> Iterator[None]:
    """Ends the process with the exit codes above; bugs pass with their traceback."""
    try:
        yield
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stopped:
        print(printable(str(stopped)), file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if is_full_disk(error):
            _fail("the disk is full; free some space and run the same command again")
        if not isinstance(error, OSError) or error.errno is None:
            raise
        if error.filename is None and error.errno != errno.EIO:
            raise
        name = os.fsdecode(error.filename) if error.filename else "a file"
        _fail(f"{name}: {error.strerror}; give another path, or make this one usable")


def _fail(line: str) -> NoReturn:
    print("error: " + printable_line(line), file=sys.stderr)
    sys.exit(2)


class _Path(flags.ArgumentParser):
    """The parser of a path, in which ~ is expanded, since shells don't do so in --flag=~/path."""

    def parse(self, argument: str) -> str:
        return str(local_path(argument)) if argument else argument


def define_path(name: str, default: str | None, help: str, **options: Any) -> flags.FlagHolder:
    """Defines and returns a flag that takes a path; `options` are those of `flags.DEFINE`."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE(_Path(), name, default, help, serializer=serializer, **options)


def define_config(
    default: str | None = None,
    help: str = "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.",
) -> flags.FlagHolder:
    """Defines and returns --config=FILE, with --config.FIELD=VALUE for the fields of the config."""
    with _one_line_for_mistakes():  # of a --flagfile, which is read here
        try:
            return config_flags.DEFINE_config_file("config", default, help)
        except flags.Error as error:
            raise UserError(one_line(str(error))) from error


def define_allow_modules() -> flags.FlagHolder:
    """Defines and returns --allow_modules, for programs that read runs."""
    help = (
        "Modules and packages of your own mixers that a run's config may have imported, such "
        "as my_package,my_mixers."
    )
    return flags.DEFINE_list("allow_modules", [], help)


def readable(texts: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """Returns `read(text)` for each text of a list flag.

    If `read` raises UserError for a text, a line is printed and the text is left out.

    Raises:
      UserError: where `read` raises one for every text.
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
        print(printable(f"left out: {error}"), file=sys.stderr)
    return found


def define_lengths() -> flags.FlagHolder:
    """Defines and returns --lengths, whose values `read_lengths` reads."""
    default = [str(4**power) for power in range(5, 11)]
    return flags.DEFINE_list("lengths", default, "Tokens of context.")


def read_lengths(texts: Iterable[str], flag: str = "lengths") -> list[int]:
    """Returns the different lengths of a list flag, ascending.

    Those that are no number of at least 1 and below 2^31 are left out as in `readable`.
    """

    def read(text: str) -> int:
        is_long = len(text) > LONGEST
        if not text.strip().isdecimal() or not is_long and int(text) < 1:
            raise UserError(
                f"--{flag} has {text!r}; give numbers of tokens of at least 1, separated by commas"
            )
        if is_long or int(text) >= INT_END:
            raise UserError(f"--{flag} has {text[:LONGEST]}; give numbers of tokens below 2^31")
        return int(text)

    return sorted(set(readable(texts, read)))
