"""Shardings: the table RULES maps logical axes of parameters and batches to mesh axes.

The mesh has two axes. Both split the batch; `fsdp` also splits parameters and moments along the
model width, so that each device stores its part and gathers the others when it needs them (ZeRO-3,
Rajbhandari et al. 2020). An axis stays whole if the mesh axis does not divide its size, or if an
earlier axis of the array has the same mesh axis. A parameter of LARGE elements or more that no rule
splits is split along its longest axis that `fsdp` divides; `replicated` names those without one.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqarch import tasks
from seqarch.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    MeshConfig,
    SeedConfig,
)
from seqarch.errors import UserError, unknown
from seqarch.tasks.batch import Batch, Layout
from seqarch.training.state import Hyper, TrainState, make_init, make_train_step
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


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of the train state of a resolved config.

    Nothing is allocated, so the size is not limited and the devices of `mesh` may be absent.
    """
    smallest = dataclasses.replace(config, batch=config.optim.accumulate, length=1)
    return _abstract_state(smallest, mesh)


@functools.lru_cache(maxsize=8)
def _abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Computes `abstract_state`, cached for all batches and lengths of a memory curve."""
    abstract = jax.eval_shape(make_init(config), jax.random.key(0))
    return placed(abstract, shardings(abstract, mesh))


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """Returns the shapes, dtypes and shardings of the global batch.

    Raises:
      UserError: where the devices don't divide the rows of a micro-batch.
    """
    rows, ways = config.batch // config.optim.accumulate, mesh.size
    if rows % ways:
        raise UserError(
            f"{rows} rows (batch {config.batch} / optim.accumulate {config.optim.accumulate}) "
            f"do not divide over {ways} devices; give a batch that is a multiple of "
            f"{ways * config.optim.accumulate}"
        )
    layout, where = batch_layout(config), batch_sharding(mesh)
    source, time = layout.columns(config.length)
    columns = layout.scored or time

    def of(dtype: jnp.dtype, columns: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch, columns), dtype, sharding=where)

    return Batch(
        tokens=of(jnp.int32, time),
        targets=of(jnp.int32, columns),
        starts=of(jnp.bool, time) if layout.packed else None,
        weights=of(jnp.float32, columns),
        positions=of(jnp.int32, columns) if layout.scored else None,
        source=of(jnp.int32, source) if config.model.encodes else None,
    )


def batch_layout(config: Config) -> Layout:
    """Returns the layout of the batches of a config, whose length may be another than its task's.

    Raises:
      UserError: for an impossible task, and for one without a source for an encoder-decoder.
    """
    layout = tasks.layout(config.task, encodes=config.model.encodes)
    _, columns = layout.columns(config.length)
    fits = layout.scored is not None and layout.scored <= columns
    return layout if fits else layout._replace(scored=None)


def init_state(config: Config, mesh: Mesh, key: jax.Array) -> TrainState:
    """Returns the initial state of a resolved config, computed in its sharding."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    return jax.jit(make_init(config), out_shardings=where)(key)


def shared_by_runs(jit: Callable) -> Callable:
    """Makes runs in one process that compute the same share what `jit` returns for their config.

    JAX then traces and compiles it once, as for `make_init`; but not with a user's own mixer.
    """
    cached = functools.lru_cache(maxsize=8)(jit)

    @functools.wraps(jit)
    def shared(config: Config, mesh: Mesh, *rest: Any) -> Callable:
        if config.model.foreign:
            return jit(config, mesh, *rest)
        beside = dict(data=DataConfig(), checkpoint=CheckpointConfig(), eval=EvalConfig(), evals={})
        if not config.model.dropout:  # which draws from the model seed within the program
            beside |= dict(seed=SeedConfig())
        optim = dataclasses.replace(config.optim, lr=1.0, weight_decay=0.0)  # these are arguments
        step = dataclasses.replace(config, log_every=1, profile=0, trackers=(), **beside)
        return cached(dataclasses.replace(step, optim=optim), mesh, *rest)

    return shared


@shared_by_runs
def jit_train_step(config: Config, mesh: Mesh) -> Callable:
    """Returns the train step of a resolved config, jitted for `mesh`.

    The state is donated and keeps its sharding; metrics are replicated.
    """
    step = make_step(config, mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=step_shardings(config, mesh))


def make_step(config: Config, mesh: Mesh) -> Callable:
    """Returns the train step of a resolved config, to be jitted for `mesh`."""
    step = make_train_step(config)

    def train_step(
        state: TrainState, batch: Batch, hyper: Hyper
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # The model reads the mesh in force, also where the caller did not set it.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch, hyper)

    return train_step


def step_shardings(config: Config, mesh: Mesh) -> tuple[PyTree, NamedSharding]:
    """Returns the shardings of the state after a step, and of its metrics."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    return where, NamedSharding(mesh, PartitionSpec())


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
