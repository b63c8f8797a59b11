"""SIGTERM and Ctrl-C as requests to stop, which training answers between two steps."""

import itertools
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequests:
    """A context manager that records SIGTERM and SIGINT; a second Ctrl-C ends the process at once.

    In a cluster, a request to one process stops all of them at the same step: JAX's preemption
    service watches for SIGTERM there, and Ctrl-C is passed on to it. Outside the main thread, which
    alone gets signals in Python, the manager does nothing.
    """

    # Calls of this process so far; the service wants numbers that never repeat.
    _asked = itertools.count(1)

    def __init__(self) -> None:
        self._received: int | None = None
        self._several = jax.process_count() > 1
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def received(self) -> int | None:
        """Returns the signal that asks to stop, or None.

        All processes of a cluster must call it equally often.
        """
        if not self._several:
            return self._received
        if multihost_utils.reached_preemption_sync_point(next(self._asked)):
            return self._received or signal.SIGTERM
        return None

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            if self._several:
                os.kill(os.getpid(), signal.SIGTERM)
