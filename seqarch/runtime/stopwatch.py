"""A stopwatch that tells laps."""

import time


class Stopwatch:
    """Wall-clock seconds since it was made, or since its last lap or restart."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets the time since the last lap."""
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of the lap that runs."""
        return time.perf_counter() - self._began

    def lap(self) -> float:
        """Returns the seconds of the lap, and begins the next one."""
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        return seconds
