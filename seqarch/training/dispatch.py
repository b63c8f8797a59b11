"""Train steps, several in one call of a program where a step is small.

A call costs the host's time, and a program's buffers are new in each one. `most_steps` states where
steps are small. One program runs any number of steps up to that, so that a run has the same bits
wherever its dispatches end.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.config import Config
from seqarch.model import count_parameters
from seqarch.tasks.batch import Batch
from seqarch.training import sharding
from seqarch.training.profile import Profile
from seqarch.training.sharded_step import (
    abstract_batch,
    abstract_state,
    jit_train_step,
    make_step,
    shared_by_runs,
    step_shardings,
)
from seqarch.training.state import Hyper, TrainState
from seqarch.types import Array, PyTree

MOST = 16  # steps of a dispatch
SMALL = 2**30  # parameters x tokens of a step, up to which a dispatch has several


def most_steps(config: Config, parameters: int) -> int:
    """Returns the most steps that share a dispatch, 1 where steps are not small.

    A dispatch then takes a few seconds at most on one CPU core, after which a request to stop is
    answered, and a second copy of the state is small.
    """
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
    """Runs the train steps of a resolved config on a mesh, for one run or for several members.

    Members differ in their data, and in what `program_key` leaves out. Their states and batches
    have a first axis; a single one is a run without it.

    Attributes:
      members: their number.
      most: the most steps of a dispatch.
      train_step: the function of a single step, jitted.
    """

    def __init__(self, config: Config, mesh: Mesh, members: int = 1):
        self._config, self._mesh, self.members = config, mesh, members
        self.train_step = jit_train_step(config, mesh)
        self.most = most_steps(config, count_parameters(config.model))
        self._program: Callable | None = None

    @property
    def _single(self) -> bool:
        """Whether the program is that of a single step."""
        return self.most == self.members == 1

    def compile(self, hyper: Hyper) -> None:
        """Compiles the program of a dispatch, for scalars that are placed as `hyper` is."""
        config, mesh = self._config, self._mesh
        state, batch = abstract_state(config, mesh), abstract_batch(config, mesh)
        if self._single:
            self._program = self.train_step.lower(state, batch, hyper).compile()
            return
        batches = _stacked(batch, self.most)
        if self.members > 1:
            state, batches = (_stacked(each, self.members) for each in (state, batches))
        program = _jit_steps(config, mesh, self.most, self.members)
        counts = self._counts([0] * self.members)
        self._program = program.lower(state, batches, hyper, counts).compile()

    def run(
        self, state: TrainState, batch: Batch, hyper: Hyper, counts: Sequence[int]
    ) -> tuple[TrainState, dict[str, Array]]:
        """Runs steps from `state`, which is donated.

        Args:
          state: where they begin.
          batch: from `batches`.
          hyper: of all steps.
          counts: the number of steps of each member, at most those in `batch`.

        Returns:
          The state after them, and metrics, of which the first steps of an array are theirs.
        """
        if self._single:
            return self._program(state, batch, hyper)
        return self._program(state, batch, hyper, self._counts(counts))

    def stack(self, states: Sequence[PyTree]) -> PyTree:
        """Returns the states or the scalars of all members as one tree."""
        if self.members == 1:
            return states[0]
        where = jax.tree.map(lambda leaf: _along(leaf.sharding), states[0])
        together = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        return jax.jit(together, out_shardings=where)(*states)

    def member(self, state: TrainState, index: int) -> TrainState:
        """Returns the state of one member."""
        return state if self.members == 1 else self._take(state, jnp.int32(index))

    @functools.cached_property
    def _take(self) -> Callable:
        where = step_shardings(self._config, self._mesh)[0]
        take = lambda state, index: jax.tree.map(lambda leaf: leaf[index], state)
        return jax.jit(take, out_shardings=where)

    def _counts(self, counts: Sequence[int]) -> np.ndarray:
        return np.int32(counts[0] if self.members == 1 else counts)

    def batches(
        self, local: Sequence[Iterator[Batch]], start: int
    ) -> Iterator[tuple[range, Batch]]:
        """Yields the steps of each dispatch after the step `start`, and their global batches.

        Args:
          local: this process's rows of each member's batches after that step.
          start: steps that lie behind the run.
        """
        while start < self._config.steps:
            last = end_of_dispatch(self._config, start, self.most)
            several = [list(itertools.islice(rows, last - start)) for rows in local]
            yield range(start + 1, last + 1), self.put(several)
            start = last

    def put(self, several: Sequence[Sequence[Batch]]) -> Batch:
        """Returns the global batches of one dispatch from this process's rows of each member's."""
        if self._single:
            return sharding.put_batch(several[0][0], self._mesh)
        stacked = [_stack(batches, self.most) for batches in several]
        local = stacked[0] if self.members == 1 else _stack(stacked, self.members)
        where = _along(sharding.batch_sharding(self._mesh))
        where = where if self.members == 1 else _along(where)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, x), local)


@shared_by_runs
def _jit_steps(config: Config, mesh: Mesh, most: int, members: int) -> Callable:
    """Returns `_make_steps` jitted, for several members where there are more than one.

    Members run one after the other, so that a member's arithmetic does not depend on the others,
    and one whose count is 0 costs nothing. Their arguments have a first axis of members. The state
    is donated and keeps its sharding.
    """
    steps, where = _make_steps(config, mesh, most), step_shardings(config, mesh)

    def each(*arguments: PyTree) -> tuple[TrainState, dict[str, Array]]:
        return jax.lax.map(lambda member: steps(*member), arguments)

    if members == 1:
        return jax.jit(steps, donate_argnums=0, out_shardings=where)
    return jax.jit(each, donate_argnums=0, out_shardings=jax.tree.map(_along, where))


def _make_steps(config: Config, mesh: Mesh, most: int) -> Callable:
    """Returns up to `most` train steps as a function.

    It is (state, batches, hyper, count) -> (state, metrics); batches and metrics have a first axis
    of `most`, of which the first `count` are steps.
    """
    step = make_step(config, mesh)

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

    return train_steps


def _along(where: NamedSharding) -> NamedSharding:
    """Returns a sharding with another first axis, which is not split."""
    return NamedSharding(where.mesh, PartitionSpec(None, *where.spec))


def _stacked(tree: PyTree, size: int) -> PyTree:
    """Returns abstract arrays with another first axis."""

    def stacked(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (size, *leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_along(leaf.sharding))

    return jax.tree.map(stacked, tree)


def _stack(trees: Sequence[Batch], size: int) -> Batch:
    """Returns batches stacked, and zeros after them where there are fewer than `size`."""

    def stack(*columns: np.ndarray) -> np.ndarray:
        found = np.zeros((size, *columns[0].shape), columns[0].dtype)
        found[: len(columns)] = columns
        return found

    return jax.tree.map(stack, *trees)
