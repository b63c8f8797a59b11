"""The standard streams: opens them if they are closed, and escapes what is printed."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from seqarch.errors import printable


@contextlib.contextmanager
def printable_stdout() -> Iterator[None]:
    """Escapes control characters, and characters outside the encoding, in what is printed."""
    with contextlib.redirect_stdout(_Printable(sys.stdout)):
        yield


def open_streams() -> None:
    """Opens /dev/null for closed standard streams.

    Otherwise the next file that is opened would get their number, and with it what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


class _Printable:
    """A text stream that escapes what is written and passes everything else to another stream."""

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
