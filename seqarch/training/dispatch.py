"""Train steps, several in one call of a program where a step is small.

A call costs the host's time, and a program's buffers are new in each one. `most_steps` states where
steps are small. One program runs any number of steps up to that, so that a run has the same bits
wherever its dispatches end.
"""

import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.config import Config
from seqarch.tasks.batch import Batch
from seqarch.training import sharding
from seqarch.training.profile import Profile
from seqarch.training.state import Hyper, TrainState
from seqarch.types import Array, PyTree

MOST = 16  # steps of a dispatch
SMALL = 2**30  # parameters x tokens of a step, up to which a dispatch has several


def most_steps(config: Config, model: PyTree) -> int:
    """Returns the most steps that share a dispatch, 1 where steps are not small.

    A dispatch then takes a few seconds at most on one CPU core, after which a request to stop is
    answered, and a second copy of the state is small.

    Args:
      config: of the run.
      model: its parameters, which may be abstract.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    return MOST if parameters * config.batch * config.length <= SMALL else 1


def end_of_dispatch(config: Config, before: int, most: int) -> int:
    """Returns the last step of the dispatch after the step `before`.

    It ends where metrics are fetched, a checkpoint or a validation is due, or a profile begins or
    ends.
    """
    last = min(before + most, config.steps)
    for every in (config.log_every, config.checkpoint.every, config.eval.every):
        if every:
            last = min(last, (before // every + 1) * every)
    for end in Profile.boundaries(config.profile):
        if before < end:
            last = min(last, end)
    return last


class Dispatcher:
    """Runs the train steps of a resolved config on a mesh.

    Attributes:
      most: the most steps of a dispatch.
      train_step: the function of a single step, jitted.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self._config, self._mesh = config, mesh
        self.train_step = sharding.jit_train_step(config, mesh)
        self.most = most_steps(config, sharding.abstract_state(config, mesh).model)
        self._program: Callable | None = None

    def compile(self, hyper: Hyper) -> None:
        """Compiles the program of a dispatch, for scalars that are placed as `hyper` is."""
        config, mesh = self._config, self._mesh
        state, batch = sharding.abstract_state(config, mesh), sharding.abstract_batch(config, mesh)
        if self.most == 1:
            self._program = self.train_step.lower(state, batch, hyper).compile()
            return
        batches = jax.tree.map(self._stacked, batch)
        program = jit_train_steps(config, mesh, self.most)
        self._program = program.lower(state, batches, hyper, jnp.int32(1)).compile()

    def run(
        self, state: TrainState, batch: Batch, hyper: Hyper, count: int
    ) -> tuple[TrainState, dict[str, Array]]:
        """Runs `count` steps from `state`, which is donated.

        Args:
          state: where they begin.
          batch: from `batches`.
          hyper: of all steps.
          count: the number of batches in `batch`.

        Returns:
          The state after them, and metrics, of which the first `count` of an array are theirs.
        """
        if self.most == 1:
            return self._program(state, batch, hyper)
        return self._program(state, batch, hyper, jnp.int32(count))

    def batches(self, local: Iterator[Batch], start: int) -> Iterator[tuple[range, Batch]]:
        """Yields the steps of each dispatch after the step `start`, and their global batches.

        Args:
          local: this process's rows of the batches after that step.
          start: steps that lie behind the run.
        """
        while start < self._config.steps:
            last = end_of_dispatch(self._config, start, self.most)
            several = list(itertools.islice(local, last - start))
            yield range(start + 1, last + 1), self.put(several)
            start = last

    def put(self, several: list[Batch]) -> Batch:
        """Returns the global batches of one dispatch from this process's rows of them."""
        if self.most == 1:
            return sharding.put_batch(several[0], self._mesh)
        stacked = jax.tree.map(lambda *columns: _stack(columns, self.most), *several)
        where = stacked_sharding(self._mesh)
        put = lambda rows: jax.make_array_from_process_local_data(where, rows)
        return jax.tree.map(put, stacked)

    def _stacked(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape, where = (self.most, *leaf.shape), stacked_sharding(self._mesh)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=where)


def stacked_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches that are stacked, whose rows are split over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, *sharding.batch_sharding(mesh).spec))


@sharding.shared_by_runs
def jit_train_steps(config: Config, mesh: Mesh, most: int) -> Callable:
    """Returns up to `most` train steps as one function, jitted for `mesh`.

    It is (state, batches, hyper, count) -> (state, metrics); batches and metrics have a first axis
    of `most`, of which the first `count` are steps. The state is donated and keeps its sharding.
    """
    step = sharding.make_step(config, mesh)

    def train_steps(
        state: TrainState, batches: Batch, hyper: Hyper, count: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def batch(i: Array | int) -> Batch:
            take = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
            return jax.tree.map(take, batches)

        def body(i: Array, carry: PyTree) -> PyTree:
            state, found = carry
            state, metrics = step(state, batch(i), hyper)
            return state, jax.tree.map(lambda x, new: x.at[i].set(new), found, metrics)

        one = jax.eval_shape(step, state, batch(0), hyper)[1]
        found = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), one)
        return jax.lax.fori_loop(0, count, body, (state, found))

    return jax.jit(
        train_steps, donate_argnums=0, out_shardings=sharding.step_shardings(config, mesh)
    )


def _stack(columns: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """Returns arrays stacked, and zeros after them where there are fewer than `size`."""
    found = np.zeros((size, *columns[0].shape), columns[0].dtype)
    found[: len(columns)] = columns
    return found
