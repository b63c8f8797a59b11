"""Shards a model for serving: parameters are split as in training, states by rows or heads."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.model import LanguageModel
from seqarch.training.sharding import shardings
from seqarch.types import State


def serve(model: LanguageModel, mesh: Mesh) -> LanguageModel:
    """Returns `model.serving()` with its parameters split over `mesh`."""
    where = shardings(jax.eval_shape(LanguageModel.serving, model), mesh)
    return jax.jit(LanguageModel.serving, out_shardings=where)(model)


def init_states(model: LanguageModel, batch: int, max_len: int) -> tuple[State, ...]:
    """Returns the model's empty states, split over the mesh of its parameters."""

    def make(model: LanguageModel) -> tuple[State, ...]:
        return model.init_state(batch, max_len)

    where = model.embedding.get_value().sharding
    if not isinstance(where, NamedSharding):  # on one device
        return jax.jit(make)(model)
    split = state_shardings(model, jax.eval_shape(make, model), where.mesh)
    return jax.jit(make, out_shardings=split)(model)


def state_shardings(
    model: LanguageModel, states: tuple[State, ...], mesh: Mesh
) -> tuple[State, ...]:
    """Returns the shardings of states, whose rows, or else heads, are split over all devices.

    Heads are split where the devices do not divide the rows. Axes that the devices do not divide,
    and all other axes, are replicated.

    Args:
      model: unstacked.
      states: of one batch; may be abstract.
      mesh: the devices; all its axes split one axis of an array.
    """
    batch = jax.tree.leaves(states)[0].shape[0]
    split = "batch" if batch % mesh.size == 0 else "heads"

    def of(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        axes = []
        for name, size in zip(names, leaf.shape, strict=True):
            axes.append(mesh.axis_names if name == split and size % mesh.size == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(of, states, model.state_axes)
