"""Shardings: the table RULES maps logical axes of parameters and batches to mesh axes.

The mesh has two axes. Both split the batch; `fsdp` also splits parameters and moments along the
model width, so that each device stores its part and gathers the others when it needs them (ZeRO-3,
Rajbhandari et al. 2020). An axis stays whole if the mesh axis does not divide its size, or if an
earlier axis of the array has the same mesh axis. A parameter of LARGE elements or more that no rule
splits is split along its longest axis that `fsdp` divides; `replicated` names those without one.
"""

import collections
import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqarch.config import MeshConfig
from seqarch.errors import UserError, unknown
from seqarch.tasks.batch import Batch
from seqarch.types import Array, PyTree

RULES = {
    "batch": ("data", "fsdp"),
    "time": None,
    "embed": "fsdp",
    "mlp": None,
    "heads": None,
    "inner": None,
    "vocab": None,
}
AXES = ("data", "fsdp")
LARGE = 1 << 16  # elements; `fsdp` splits any axis of a layer's parameter of so many or more


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the devices as a mesh with the axes AXES.

    On several slices (TPU pods, GPU hosts) `data` goes across slices as far as possible, since
    replicas communicate only once per step.

    Args:
      config: the sizes of the axes; -1 takes the devices that the other axis leaves.
      devices: default: those of all processes.

    Raises:
      UserError: where the product of the sizes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp]
    if sizes.count(-1) == 1:
        given = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // given if given > 0 else 0
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} does not fit {len(devices)} "
            "devices; give sizes whose product is that, one of them -1 for what is left"
        )
    auto = (AxisType.Auto,) * len(AXES)
    if len({getattr(device, "slice_index", 0) for device in devices}) == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)
    return Mesh(_across_slices(tuple(sizes), devices), AXES, axis_types=auto)


def _across_slices(sizes: tuple[int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices as a grid whose neighbours are of one slice where possible."""
    counts = collections.Counter(device.slice_index for device in devices)
    by_data = math.gcd(sizes[0], len(counts))
    slices = (by_data, len(counts) // by_data)
    if len(set(counts.values())) > 1 or sizes[1] % slices[1]:
        raise UserError(
            f"mesh.data={sizes[0]} x mesh.fsdp={sizes[1]} cannot be laid over {len(counts)} "
            f"slices of {sorted(counts.values())} devices; give mesh.data={len(counts)} and "
            "mesh.fsdp=-1, and slices of one size"
        )
    within = tuple(size // count for size, count in zip(sizes, slices, strict=True))
    return mesh_utils.create_hybrid_device_mesh(
        within, slices, devices, allow_split_physical_axes=True
    )


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns a sharding for each leaf, by the `axes` metadata of its nnx.Variable.

    Leaves without axes are replicated.
    """

    def of(leaf: nnx.Variable | jax.ShapeDtypeStruct) -> nnx.Variable | NamedSharding:
        if not isinstance(leaf, nnx.Variable):
            return NamedSharding(mesh, PartitionSpec())
        spec = _spec(leaf.get_metadata().get("axes") or (), leaf.get_value().shape, mesh)
        return leaf.replace(NamedSharding(mesh, spec))

    return jax.tree.map(of, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def device_bytes(tree: PyTree) -> int:
    """Returns the bytes of a device's part of a tree whose leaves have shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def replicated(tree: PyTree, mesh: Mesh) -> list[str]:
    """Returns the names and shapes of large parameters none of whose axes `fsdp` divides."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    whole = []
    for path, param in leaves:
        axes, shape = param.get_metadata().get("axes") or (), param.get_value().shape
        split = "fsdp" in _spec(axes, shape, mesh) or mesh.shape["fsdp"] == 1
        if not split and math.prod(shape[len(shape) - len(axes) :]) >= LARGE:
            whole.append(f"{jax.tree_util.keystr(path, simple=True, separator='.')} {list(shape)}")
    return whole


def placed(tree: PyTree, where: PyTree) -> PyTree:
    """Returns abstract arrays like those in `tree`, with the shardings `where`."""

    def place(leaf: Array, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree, where)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, whose rows are split over all devices.

    Raises:
      UserError: where RULES split time, for which mixers would have to exchange states.
    """
    if RULES["time"] is not None:
        raise UserError(
            f"the rule time -> {RULES['time']!r} would split sequences over devices, which no "
            "mixer supports"
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"], None))


def put_batch(local: Batch, mesh: Mesh) -> Batch:
    """Returns the global batch from this process's rows of it."""
    where = batch_sharding(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(where, np.asarray(rows))

    return jax.tree.map(put, local)


def _spec(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Returns how an array is split; `names` are of its last axes, without that of a stack."""
    taken: list[str | None] = []
    stacked = len(shape) - len(names)
    for name, size in zip((None,) * stacked + tuple(names), shape, strict=True):
        if name is not None and name not in RULES:
            raise unknown("logical axis", name, RULES)
        axis = RULES[name] if name is not None else None
        free = axis is not None and axis not in taken and size % mesh.shape[axis] == 0
        taken.append(axis if free else None)
    divided = [i for i in range(stacked, len(shape)) if shape[i] % mesh.shape["fsdp"] == 0]
    if "fsdp" not in taken and divided and math.prod(shape[stacked:]) >= LARGE:
        taken[max(divided, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*taken)
