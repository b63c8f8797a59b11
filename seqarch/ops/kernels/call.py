"""How kernels are called: for the device, or interpreted by XLA where a test wants their values."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from seqarch.types import PyTree

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


def row_devices() -> int:
    """Returns the number of devices over which `by_rows` divides rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in _row_axes())


def by_rows(
    call: Callable[[PyTree, PyTree], PyTree], rows: PyTree, whole: PyTree, *, axis: int = 0
) -> PyTree:
    """Returns `call(rows, whole)`, of which each device computes its own rows.

    The compiler cannot divide a kernel over devices. The rows are divided over all devices of the
    mesh in force, as `seqarch.layers.split_rows` divides them, but not within a `jax.shard_map`,
    which has done so.

    Args:
      call: returns arrays that have the same axis of rows.
      rows: arrays; `row_devices()` divides their rows.
      whole: arrays that each device needs whole.
      axis: that of the rows.
    """
    axes = _row_axes()
    if not axes:
        return call(rows, whole)
    split = PartitionSpec(*[None] * axis, axes)
    specs = (split, PartitionSpec())
    return jax.shard_map(call, in_specs=specs, out_specs=split, check_vma=False)(rows, whole)


def _row_axes() -> tuple[str, ...]:
    """Returns the axes of the mesh in force whose devices run one program, if they are several."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or mesh.manual_axes:
        return ()
    return mesh.axis_names
