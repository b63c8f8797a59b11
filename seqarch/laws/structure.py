"""The clauses about shapes, dtypes and names of axes, for which nothing is computed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.laws.compare import LawBroken
from seqarch.laws.trial import Trial
from seqarch.mixers.base import SequenceMixer
from seqarch.types import State

DTYPES = (jnp.float32, jnp.bfloat16)
ROWS = 2


def state_is_a_carry(trial: Trial) -> None:
    """Requires prefill and step to keep the state's structure, shapes and dtypes.

    The axes of the state's arrays must be named, and its size must grow with max_len exactly if
    `constant_state` is False.
    """
    for max_len, dtype in zip((trial.time, 8 * trial.time), DTYPES):
        mixer = trial.make_small(dtype=dtype, rngs=nnx.Rngs(0))
        state = jax.eval_shape(lambda: mixer.init_state(ROWS, max_len))  # noqa: B023
        for name, shape in (
            ("prefill", (ROWS, trial.time, trial.dim)),
            ("step", (ROWS, trial.dim)),
        ):
            _require_carry(mixer, name, jax.ShapeDtypeStruct(shape, dtype), state)
    _require_state_axes(mixer, state)
    _require_stated_growth(mixer)


def _require_carry(
    mixer: SequenceMixer, name: str, inputs: jax.ShapeDtypeStruct, state: State
) -> None:
    y, after = jax.eval_shape(lambda x, state: getattr(mixer, name)(x, state), inputs, state)
    if jax.tree.map(_shape, after) != jax.tree.map(_shape, state):
        raise LawBroken(f"{name} changes the state from {state} to {after}")
    if _shape(y) != _shape(inputs):
        raise LawBroken(f"{name} takes {_shape(inputs)} and returns {_shape(y)}")


def _require_state_axes(mixer: SequenceMixer, state: State) -> None:
    named = jax.tree.leaves(mixer.state_axes, is_leaf=_are_axes)
    if [len(axes) for axes in named] != [leaf.ndim for leaf in jax.tree.leaves(state)]:
        raise LawBroken(
            f"state_axes is {mixer.state_axes}, yet the state is {state}; "
            "name the axes of every array"
        )


def _require_stated_growth(mixer: SequenceMixer) -> None:
    sizes = []
    for max_len in (1 << 12, 1 << 20):
        state = jax.eval_shape(lambda: mixer.init_state(ROWS, max_len))  # noqa: B023
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(state)))
    if mixer.constant_state != (sizes[0] == sizes[1]):
        raise LawBroken(
            f"constant_state is {mixer.constant_state}, yet max_len 4096 and 1048576 "
            f"take {sizes} elements"
        )


def parameters_name_axes(trial: Trial) -> None:
    """Requires each parameter to have the metadata `axes`, with a name or None per dimension."""
    mixer = trial.make_small(dtype=jnp.float32, rngs=nnx.Rngs(0))
    for path, parameter in nnx.to_flat_state(nnx.state(mixer, nnx.Param)):
        axes, name = parameter.get_metadata().get("axes"), ".".join(map(str, path))
        if not _are_axes(axes) or len(axes) != parameter[...].ndim:
            raise LawBroken(f"{name} of shape {parameter[...].shape} has axes {axes}; name each")


def _shape(x: Any) -> tuple:
    return x.shape, x.dtype


def _are_axes(names: Any) -> bool:
    """Returns whether `names` is a tuple of names and Nones."""
    return isinstance(names, tuple) and all(name is None or isinstance(name, str) for name in names)
