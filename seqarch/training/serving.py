"""A trained model on the devices that serve it: its parameters split as in training, its states by
rows or heads.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.model import LanguageModel
from seqarch.training.sharding import shardings
from seqarch.types import State


def serve(model: LanguageModel, mesh: Mesh) -> LanguageModel:
    """Returns `model` as `LanguageModel.serving` makes it, its parameters split over `mesh`."""
    where = shardings(jax.eval_shape(LanguageModel.serving, model), mesh)
    return jax.jit(LanguageModel.serving, out_shardings=where)(model)


def init_states(model: LanguageModel, batch: int, max_len: int) -> tuple[State, ...]:
    """Returns the model's empty states, over the mesh over which its parameters are split."""

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
    """Returns the shardings of states: all devices share the rows, or else the heads.

    Heads are shared where the devices do not divide the rows; what they divide neither way, and all
    other axes, are whole on each.

    Args:
      model: unstacked.
      states: of one batch, maybe abstract.
      mesh: all axes of which share one axis of an array.
    """
    batch = jax.tree.leaves(states)[0].shape[0]
    split = "batch" if batch % mesh.size == 0 else "heads"

    def of(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        axes = []
        for name, size in zip(names, leaf.shape, strict=True):
            axes.append(mesh.axis_names if name == split and size % mesh.size == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*axes))

    axes = tuple(block.mixer.state_axes for block in model.blocks())
    return jax.tree.map(of, states, axes)
