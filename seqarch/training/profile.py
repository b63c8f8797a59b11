"""A profiler trace of a few training steps."""

import os
from typing import Any

import jax


class Profile:
    """A profiler trace of LENGTH steps, or fewer at the end of a run.

    Args:
      run_dir: where the trace is written.
      first: the first step of the trace; 0: no trace.
    """

    LENGTH = 5  # steps

    @classmethod
    def boundaries(cls, first: int) -> tuple[int, ...]:
        """Returns the steps after which a trace from step `first` on begins and ends; 0: none."""
        return (first - 1, first - 1 + cls.LENGTH) if first else ()

    def __init__(self, run_dir: str | os.PathLike, first: int):
        self._run_dir, self._first, self._running = str(run_dir), first, False

    def before(self, step: int, state: Any) -> None:
        """Starts the trace if `step` is the first of it; `state` is the one that it starts from."""
        if self._first and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._run_dir)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if `step` is the last of it; `state` is the one that it returned."""
        if self._running and step == self._first + self.LENGTH - 1:
            self.stop(state)

    def stop(self, state: Any) -> None:
        """Ends a trace that is running, once `state` is computed."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
