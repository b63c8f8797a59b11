"""SIGTERM and Ctrl-C as requests, which the loop answers between two steps by saving."""

import itertools
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequests:
    """Takes note of SIGTERM and SIGINT while it is entered; a second Ctrl-C ends the process at
    once, whatever it waits for.

    Of several processes one that is told to stop stops all, at the same step: JAX's preemption
    service watches SIGTERM then, and Ctrl-C is passed on to it. Outside the main thread, which
    alone gets signals in Python, it does nothing.
    """

    # Asked by this process so far: the service names a count, and one that has passed never comes.
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
        """The signal that asks to stop; None where none does. All processes ask equally often."""
        if not self._several:
            return self._received
        return (
            self._received or signal.SIGTERM
            if multihost_utils.reached_preemption_sync_point(next(self._asked))
            else None
        )

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            if self._several:
                os.kill(os.getpid(), signal.SIGTERM)
