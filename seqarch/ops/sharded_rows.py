"""Rows that are divided over devices, where the compiler could not divide them."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from seqarch.types import PyTree


def row_devices() -> int:
    """Returns the number of devices over which `by_rows` divides rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in _row_axes())


def by_rows(
    call: Callable[[PyTree, PyTree], PyTree], rows: PyTree, whole: PyTree, *, axis: int = 0
) -> PyTree:
    """Returns `call(rows, whole)`, of which each device computes its own rows.

    The compiler cannot divide a kernel, or a loop over rows. The rows are divided over all devices
    of the mesh in force, as `seqarch.layers.split_rows` divides them, but not within a
    `jax.shard_map`, which has done so.

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
