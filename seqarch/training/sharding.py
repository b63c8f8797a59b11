"""Where arrays lie: logical axis names of parameters and batches become mesh axes through one table, RULES.

The mesh has two axes. Both split the batch; `fsdp` also splits parameters and moments along the model width, so that
each device keeps its part and gathers the others' when it needs them (ZeRO-3, Rajbhandari et al. 2020).
An axis whose size the mesh axis does not divide, and the second of two that want the same mesh axis, stay replicated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqarch.config import Config, MeshConfig, with_forms
from seqarch.data.loader import Batch
from seqarch.errors import UserError, unknown
from seqarch.ops.forms import family
from seqarch.training.state import Hyper, TrainState, make_init, make_train_step
from seqarch.tuning import tuned
from seqarch.types import PyTree

RULES = {
    "batch": ("data", "fsdp"),
    "time": None,
    "embed": "fsdp",
    "mlp": None,
    "heads": None,
    "inner": None,
    "vocab": None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All `devices` (default: those of every process) as a mesh ("data", "fsdp"); -1 takes what is left."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp]
    if sizes.count(-1) == 1:
        given = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // given if given > 0 else 0
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} does not fit {len(devices)} devices; "
            "give sizes whose product is that, one of them -1 for what is left"
        )
    return jax.make_mesh(tuple(sizes), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each leaf, by the `axes` metadata of its nnx.Variable; leaves without are replicated."""

    def of(leaf: nnx.Variable | jax.ShapeDtypeStruct) -> nnx.Variable | NamedSharding:
        if not isinstance(leaf, nnx.Variable):
            return NamedSharding(mesh, PartitionSpec())
        spec = _spec(leaf.get_metadata().get("axes") or (), leaf.get_value().shape, mesh)
        return leaf.replace(NamedSharding(mesh, spec))

    return jax.tree.map(of, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows are split over all devices. Splitting time needs mixers that exchange states: refused until they do."""
    if RULES["time"] is not None:
        raise UserError(f"the rule time -> {RULES['time']!r} would split sequences over devices, which no mixer supports")
    return NamedSharding(mesh, PartitionSpec(RULES["batch"], None))


def resolve(config: Config, mesh: Mesh) -> Config:
    """`config` with the forms of its mixers chosen for the mesh's devices, which need not be the host's."""
    device = mesh.devices.flat[0]
    return dataclasses.replace(config, model=with_forms(config.model, family(device.platform), tuned(device)))


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the train state: nothing is allocated, so any size and any mesh will do."""
    return _abstract_state(dataclasses.replace(resolve(config, mesh), batch=config.optim.accumulate, length=1), mesh)


@functools.lru_cache(maxsize=8)
def _abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """The same for every batch and length, at which a memory curve asks for it again and again."""
    abstract = jax.eval_shape(make_init(config), jax.random.key(0))
    struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(struct, abstract, shardings(abstract, mesh))


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """The same for the global batch; raises UserError where the devices don't divide it."""
    rows, ways = config.batch // config.optim.accumulate, mesh.size
    if rows % ways:
        raise UserError(
            f"{rows} rows (batch {config.batch} / optim.accumulate {config.optim.accumulate}) "
            f"do not divide over {ways} devices; give a batch that is a multiple of {ways * config.optim.accumulate}"
        )
    shape, where = (config.batch, config.length), batch_sharding(mesh)
    struct = lambda dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    return Batch(tokens=struct(jnp.int32), targets=struct(jnp.int32), starts=struct(jnp.bool), weights=struct(jnp.float32))


def init_state(config: Config, mesh: Mesh, key: jax.Array) -> TrainState:
    """The initial state, born sharded."""
    config = resolve(config, mesh)
    init = make_init(config)
    return jax.jit(init, out_shardings=shardings(jax.eval_shape(init, key), mesh))(key)


def jit_train_step(config: Config, mesh: Mesh) -> Callable:
    """The train step, jitted for `mesh`: the state is donated and comes out sharded as it went in, metrics replicated."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    step = make_train_step(resolve(config, mesh))

    def train_step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # the model reads it, also where no jax.set_mesh is
            return step(state, batch, hyper)

    return jax.jit(train_step, donate_argnums=0, out_shardings=(where, NamedSharding(mesh, PartitionSpec())))


def put_batch(local: Batch, mesh: Mesh) -> Batch:
    """The global batch from this process's rows of it."""
    where = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(where, np.asarray(rows)), local)


def _spec(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """`names` are of the trailing axes: a stacked period has one more in front."""
    taken: list[str | None] = []
    for name, size in zip((None,) * (len(shape) - len(names)) + tuple(names), shape, strict=True):
        if name is not None and name not in RULES:
            raise unknown("logical axis", name, RULES)
        axis = RULES[name] if name is not None else None
        taken.append(axis if axis is not None and axis not in taken and size % mesh.shape[axis] == 0 else None)
    return PartitionSpec(*taken)
