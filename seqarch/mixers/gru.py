"""The GRU, a gated recurrent cell, in its reset-after variant (see seqarch/ops/gru.py).

    u_t = W x_t + b,    h_t = GRU(u_t, h_{t-1}),    y_t = O h_t

Training is sequential in T: the recurrence is not linear, so no scan of it is associative.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.layers import Linear, whole
from seqarch.mixers.base import SequenceMixer
from seqarch.ops.gru import FORMS
from seqarch.ops.numerics import valid_tokens
from seqarch.types import Array, DTypeLike, Float


class GRUState(NamedTuple):
    """The state of a GRU: its last output h."""

    h: Float[Array, "B E"]


class GRU(SequenceMixer):
    """The GRU.

    hidden: width E of the state; None: D
    method: a form of ops.gru; "auto": the best one on the device
    state_dtype: dtype of the state between calls
    """

    forms, state_option = FORMS, "hidden"
    state_axes = GRUState(h=("batch", "inner"))

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
        self.hidden, self.method, self.dtype, self.state_dtype = (
            hidden or dim,
            method,
            dtype,
            state_dtype,
        )
        self.inp = Linear(
            dim, 3 * self.hidden, ("embed", "inner"), rngs=rngs, dtype=dtype, bias=True
        )
        orthogonal = jax.vmap(
            lambda key: nnx.initializers.orthogonal()(key, (self.hidden, self.hidden))
        )
        gates = orthogonal(jax.random.split(rngs.params(), 3))
        self.recurrent = nnx.Param(
            jnp.concatenate(gates, axis=1), axes=(None, "inner"), cast=jnp.dtype(dtype)
        )
        self.bias = nnx.Param(jnp.zeros(3 * self.hidden), axes=("inner",), decay=False)
        self.out = Linear(
            self.hidden, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, residual=True
        )

    def init_state(self, batch, max_len):
        return GRUState(jnp.zeros((batch, self.hidden), self.state_dtype))

    def prefill(self, x, state, starts=None, lengths=None):
        valid = None if lengths is None else valid_tokens(lengths, *x.shape[:2])
        if valid is not None and starts is not None:
            starts = starts & valid
        return self._run(x, state, self.method, starts=starts, valid=valid)

    def step(self, x, state):
        y, state = self._run(x[:, None], state, "sequential")
        return y[:, 0], state

    def _run(self, x, state, method, **masks):
        W = whole(self.recurrent[...].astype(self.dtype))
        h0 = state.h.astype(jnp.float32)
        u = _time_major(self.inp, x)
        hs, h = ops.gru(u, W, self.bias[...], h0, method=method, **masks)
        return _time_major(self.out, hs), GRUState(h.astype(self.state_dtype))


def _time_major(linear: Linear, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    """Returns linear(x), computed with time before rows, as the recurrence has it.

    The compiler then transposes the D channels of the block, not the 3 E of the gates.
    """
    return jnp.swapaxes(linear(jnp.swapaxes(x, 0, 1)), 0, 1)
