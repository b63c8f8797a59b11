"""Exceptions that mean the user can fix something, and requests to stop.

Their message is one line: what was given, what was expected, and what to do.
"""

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake in a config, a flag, a path or a data file.

    Programs print its one line and exit with code 2.
    """


class NoResult(UserError):
    """A member of a comparison has no result; the other members continue."""


class Diverged(NoResult):
    """Training ended because its losses or gradients were not finite."""


class Stopped(Exception):
    """Training was asked to stop and has saved a checkpoint.

    Programs print its one line and exit with 128 + `signal`, as shells do.
    """

    def __init__(self, line: str, signal: int):
        super().__init__(line)
        self.signal = signal

    def __reduce__(self) -> tuple:
        return Stopped, (str(self), self.signal)  # pickle would call it with the line alone


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts `what`, such as "the probe 'recall'", before the message of a mistake within it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """Returns the error for an unknown name, which suggests the nearest one, whatever its case.

    Args:
      kind: what is named, such as "mixer".
      given: the name.
      known: the names that exist.
    """
    names = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(given.lower(), names, n=1)
    every = f"known: {', '.join(names.values())}" if names else "there is none"
    hint = f"did you mean {names[close[0]]!r}?" if close else every
    return UserError(f"unknown {kind} {given!r}; {hint}")


def unknown_field(given: str, fields: Iterable[str]) -> UserError:
    """Returns the error for an unknown field of a config.

    It suggests fields of the same name in other groups, or else the nearest one of its group.

    Args:
      given: its dotted name.
      fields: the dotted names of all fields.
    """
    group, _, name = given.rpartition(".")
    parts = {field: field.rpartition(".") for field in sorted(fields)}
    if elsewhere := [repr(field) for field, (*_, last) in parts.items() if last == name]:
        return UserError(f"unknown config field {given!r}; did you mean {' or '.join(elsewhere)}?")
    level = {last: field for field, (where, _, last) in parts.items() if where == group}
    if not level:
        return unknown("config field", given, parts)
    close = difflib.get_close_matches(name, level, n=1)
    hint = f"did you mean {level[close[0]]!r}?" if close else f"known: {', '.join(level)}"
    return UserError(f"unknown config field {given!r}; {hint}")


def is_full_disk(error: BaseException | None) -> bool:
    """Returns whether `error`, or an error that caused it, means that a disk is full.

    It does by its errno, or, from TensorStore, by its words.
    """
    if error is None:
        return False
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    by_words = os.strerror(errno.ENOSPC) in str(error)
    return by_number or by_words or is_full_disk(error.__cause__ or error.__context__)


# C0 and C1 but tab and newline, halves of surrogate pairs, separators of lines and paragraphs, and
# marks of the writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns `text` with control characters escaped, so that no name controls a terminal.

    Newlines and tabs stay. Bytes of a path that are not UTF-8 become escapes such as \\udcff.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable_line(text: str) -> str:
    """Returns `printable(text)` on one line, with newlines and tabs escaped too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error, or the error's type where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
