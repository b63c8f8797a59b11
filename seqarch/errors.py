"""Errors that are the user's to mend, in one line that says what was given, what was expected and
what to do; and stops.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, a flag, a path or a data file. Programs print its one line and exit
    with code 2.
    """


class NoResult(UserError):
    """A member of a comparison came to no result; the others can go on."""


class Diverged(NoResult):
    """Training was given up because its losses or gradients were not finite."""


class Stopped(Exception):
    """Training was asked to stop and has saved. Programs print the line and exit with 128 +
    `signal`, as shells count.
    """

    def __init__(self, line: str, signal: int):
        super().__init__(line)
        self.signal = signal

    def __reduce__(self) -> tuple:
        return Stopped, (str(self), self.signal)  # as it also comes from another process


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`; it names the nearest one."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {given!r}; {hint}")


def is_full_disk(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, says so by number or, as TensorStore does, in
    words.
    """
    if error is None:
        return False
    told = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(
        errno.ENOSPC
    ) in str(error)
    return told or is_full_disk(error.__cause__ or error.__context__)


# C0 and C1 but tab and newline, halves of surrogate pairs, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns `text` with control characters as escapes, so that no name commands a terminal.

    Newlines and tabs stay. Bytes of a path that are no UTF-8 are shown as \\udcff.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def first_line(error: BaseException) -> str:
    """What a library says, without what follows for its makers; the kind of the error where it says
    nothing.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
