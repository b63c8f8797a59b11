"""The standard streams: open in any case, and safe for the terminal behind them."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from seqarch.errors import printable


@contextlib.contextmanager
def printable_stdout() -> Iterator[None]:
    """Escapes in what is printed what no terminal and no encoding should get."""
    with contextlib.redirect_stdout(_Printable(sys.stdout)):
        yield


def open_streams() -> None:
    """Opens /dev/null for standard streams that are closed; else the next file that is opened would
    get their numbers, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


class _Printable:
    """A text stream whose texts are escaped by `printable` and fit its encoding; else like it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
