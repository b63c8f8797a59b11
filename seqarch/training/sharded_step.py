"""The train step of a config on a mesh: its program, and the state and the batch that it takes."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch import tasks
from seqarch.config import CheckpointConfig, Config, DataConfig, EvalConfig, SeedConfig, to_dict
from seqarch.errors import UserError
from seqarch.tasks.batch import Batch, BatchLayout
from seqarch.training.sharding import batch_sharding, placed, shardings
from seqarch.training.state import Hyper, TrainState, make_init, make_train_step
from seqarch.types import PyTree


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


def batch_layout(config: Config) -> BatchLayout:
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
        beside |= dict(log_every=1, profile=0, trackers=())
        return cached(dataclasses.replace(_without_arguments(config), **beside), mesh, *rest)

    return shared


def program_key(config: Config) -> str:
    """Returns what runs that train with equal programs have in common, as text.

    That is all but the arguments of the program: the learning rate, the weight decay and the seeds.
    """
    return json.dumps(to_dict(_without_arguments(config)), sort_keys=True)


def _without_arguments(config: Config) -> Config:
    """Returns a config with defaults in place of what the train step takes as arguments.

    Dropout draws from the model seed within the program, so with it that seed stays.
    """
    optim = dataclasses.replace(config.optim, lr=1.0, weight_decay=0.0)
    seed = SeedConfig(model=config.seed.model if config.model.dropout else 0)
    return dataclasses.replace(config, optim=optim, seed=seed)


@shared_by_runs
def jit_train_step(config: Config, mesh: Mesh) -> Callable:
    """Returns the train step of a resolved config, jitted for `mesh`.

    The state is donated and keeps its sharding; metrics are replicated.
    """
    step = make_step(config, mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=step_shardings(config, mesh))


@shared_by_runs
def make_step(config: Config, mesh: Mesh) -> Callable:
    """Returns the train step of a resolved config, to be jitted for `mesh`.

    JAX traces it once for all programs that have it as a part.
    """
    step = make_train_step(config)

    def train_step(
        state: TrainState, batch: Batch, hyper: Hyper
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # The model reads the mesh in force, also where the caller did not set it.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch, hyper)

    return jax.jit(train_step, inline=True)


def step_shardings(config: Config, mesh: Mesh) -> tuple[PyTree, NamedSharding]:
    """Returns the shardings of the state after a step, and of its metrics."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    return where, NamedSharding(mesh, PartitionSpec())
