"""A stopwatch with laps."""

import time


class Stopwatch:
    """Measures wall-clock seconds since its construction, last lap or restart."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins the lap again."""
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of the current lap."""
        return time.perf_counter() - self._began

    def lap(self) -> float:
        """Returns the seconds of the lap, and begins the next one."""
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        return seconds
