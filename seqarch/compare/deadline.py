"""The time until which a comparison begins runs; it leaves the others for a later start."""

import time
from typing import NamedTuple

from seqarch.errors import NoResult


class OutOfTime(NoResult):
    """A run was not begun, because the time for the comparison is over."""


class Deadline(NamedTuple):
    """A point in time, which all processes of a machine share.

    Attributes:
      at: seconds of the machine's monotonic clock; None: there is no end.
    """

    at: float | None = None

    def check(self) -> None:
        """Raises OutOfTime once the time is over; call it before a run is begun."""
        if self.at is not None and time.monotonic() >= self.at:
            raise OutOfTime("not run yet, and the same command goes on with it")


def in_minutes(minutes: float | None) -> Deadline:
    """Returns the deadline in so many minutes; None: no end."""
    return Deadline(None if minutes is None else time.monotonic() + 60 * minutes)
