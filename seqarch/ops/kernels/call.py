"""How kernels are called: for the device, or interpreted by XLA where a test wants their values."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jax.experimental import pallas as pl

_INTERPRETED = ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Within it, kernels are interpreted, so that any platform computes their values, slowly.

    What was traced before keeps its way: jit a function of its own within it.
    """
    token = _INTERPRETED.set(True)
    try:
        yield
    finally:
        _INTERPRETED.reset(token)


def kernel_call(kernel: Callable, **options: Any) -> Callable:
    """Returns `pl.pallas_call(kernel, **options)`, interpreted within `interpreted`."""
    return pl.pallas_call(kernel, interpret=_INTERPRETED.get(), **options)


def unrolled(turns: int) -> int:
    """Returns how many turns of a kernel's loop to unroll: one within `interpreted`, to compile."""
    return 1 if _INTERPRETED.get() else turns


@functools.cache
def say_once(line: str) -> None:
    """Prints a line to stderr, the first time that it is given."""
    print(line, file=sys.stderr, flush=True)
