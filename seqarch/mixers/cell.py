"""What mixers with a nonlinear recurrent cell share: projections, initialisation and masks.

u_t = W_u x_t + b,    h_t = cell(u_t, h_{t-1}),    y_t = O h_t
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear, whole
from seqarch.mixers.base import FormMixer
from seqarch.types import Array, DTypeLike, Float


class CellMixer(FormMixer):
    """A mixer with a cell whose gates have dense recurrent weights, which start orthogonal.

    A subclass defines `_run`, and `_add` where it has further parameters.

    Attributes:
      gates: gates and proposals of the cell, U / E.
    """

    gates: ClassVar[int]
    state_option = "hidden"

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        E = hidden or dim
        self.hidden, self.method, self.dtype, self.state_dtype = E, method, dtype, state_dtype
        self.inp = Linear(
            dim, self.gates * E, ("embed", "inner"), rngs=rngs, dtype=dtype, bias=True
        )
        orthogonal = jax.vmap(lambda key: nnx.initializers.orthogonal()(key, (E, E)))
        blocks = orthogonal(jax.random.split(rngs.params(), self.gates))
        self.recurrent = nnx.Param(
            jnp.concatenate(blocks, axis=1), axes=(None, "inner"), cast=jnp.dtype(dtype)
        )
        self.out = Linear(E, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, residual=True)
        self._add()

    def init_state(self, batch, max_len):
        shape, State = (batch, self.hidden), type(self.state_axes)
        return State(*(jnp.zeros(shape, self.state_dtype) for _ in State._fields))

    def _add(self) -> None:
        """Adds parameters to those that all cells have, or changes how they start."""

    def _weights(self) -> Float[Array, "E U"]:
        """Returns the recurrent weights for a loop over tokens."""
        return whole(self.recurrent[...].astype(self.dtype))


def time_major(linear: Linear, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    """Returns linear(x), computed with time before rows, as the recurrence has it.

    The compiler then transposes the D channels of the block, not the gates' channels.
    """
    return jnp.swapaxes(linear(jnp.swapaxes(x, 0, 1)), 0, 1)
