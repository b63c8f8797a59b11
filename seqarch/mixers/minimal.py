"""What minGRU and minLSTM share: gates of the input alone, and a linear recurrence.

    h_t = a_t h_{t-1} + b_t,    y_t = O h_t

a_t and b_t do not depend on h, so the states of all tokens are one parallel scan. With all
proposals above 0, every h is an average of values above 0. The paper then scans logarithms; here
a_t and b_t themselves are scanned in float32, which computes the same function, since nothing is
ever divided by a product of a.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.base import SequenceMixer, masks
from seqarch.ops.scan import FORMS
from seqarch.types import Array, DTypeLike, Float


class MinimalState(NamedTuple):
    """The state h of the recurrence; it starts at 0."""

    h: Float[Array, "B E"]


class MinimalMixer(SequenceMixer):
    """A mixer with gates of the input alone; a subclass defines `gates` and `_affine`.

    Attributes:
      gates: gates and proposals of the cell, U / E.
    """

    forms, state_axes = FORMS, MinimalState(h=("batch", "inner"))
    gates: ClassVar[int]

    def __init__(
        self,
        dim: int,
        *,
        expand: int = 2,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if expand < 1:
            raise UserError(f"expand is {expand}; give a whole number of at least 1")
        self.hidden = E = expand * dim
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        self.inp = Linear(
            dim, self.gates * E, ("embed", "inner"), rngs=rngs, dtype=dtype, bias=True
        )
        self.out = Linear(E, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, residual=True)

    def init_state(self, batch, max_len):
        return MinimalState(jnp.zeros((batch, self.hidden), self.state_dtype))

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        a, b = self._affine(self.inp(x).astype(jnp.float32))
        h0, how = state.h.astype(jnp.float32), dict(method=self.method, chunk=self.chunk)
        hs, h = ops.linear_scan(a, b, h0, starts=starts, valid=valid, **how)
        return self.out(hs.astype(x.dtype)), MinimalState(h.astype(self.state_dtype))

    def step(self, x, state):
        a, b = self._affine(self.inp(x).astype(jnp.float32))
        h = a * state.h.astype(jnp.float32) + b
        return self.out(h.astype(x.dtype)), MinimalState(h.astype(self.state_dtype))

    def _affine(self, u: Float[Array, "... U"]) -> tuple[Float[Array, "... E"], ...]:
        """Returns a and b for projections of the inputs, in float32."""
        raise AssertionError(f"{type(self).__name__} does not define _affine")


def g(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x + 1/2 where x is at least 0, else sigmoid(x): continuous, and above 0 everywhere.

    Source: Feng et al. 2024, "Were RNNs all we needed?", appendix B.
    """
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))
