"""A profiler trace of a few training steps."""

import os
from typing import Any

import jax


class Profile:
    """A profiler trace of LENGTH steps, or what is left of the run, from the step `first` on; 0 for
    none.
    """

    LENGTH = 5

    def __init__(self, run_dir: str | os.PathLike, first: int):
        self._run_dir, self._first, self._running = str(run_dir), first, False

    def before(self, step: int, state: Any) -> None:
        """To be called with the state that `step` starts from."""
        if self._first and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._run_dir)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """To be called with the state that `step` made."""
        if self._running and step == self._first + self.LENGTH - 1:
            self.stop(state)

    def stop(self, state: Any) -> None:
        """Ends a trace that is running, once `state` is there."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
