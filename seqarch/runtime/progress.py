"""Lines that say which run of a comparison is being worked on, and how long all that is left will
take.
"""

import time

import jax


class Progress:
    """Of `total` runs that are to be worked on; those that are found finished are not among
    them.
    """

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self._what, self._began, self._worked = "", 0.0, 0.0

    def begin(self, what: str) -> None:
        self._what, self._began = what, time.monotonic()

    def end(self) -> None:
        """The run that was begun is there, by work."""
        self.done += 1
        self.total = max(self.total, self.done)
        self._worked += time.monotonic() - self._began

    def say(self, text: str) -> None:
        count = f"{1 + self.done}/{self.total} " if self.done < self.total else ""
        place = f"[{count}{self._what}{self._left()}] " if self._what else ""
        if jax.process_index() == 0:
            print(place + text, flush=True)

    def _left(self) -> str:
        if not self.done:
            return ""
        seconds = self._worked / self.done * (self.total - self.done) - (
            time.monotonic() - self._began
        )
        return f", {max(seconds, 0) / 60:.1f} min left"
