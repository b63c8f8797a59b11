"""The GRU, a gated recurrent cell, in its reset-after variant (see seqarch/ops/gru.py).

    u_t = W x_t + b,    h_t = GRU(u_t, h_{t-1}),    y_t = O h_t

Training is sequential in T: the recurrence is not linear, so no scan of it is associative. But see
method=newton (seqarch/ops/newton.py).

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.mixers.cell import CellMixer, time_major
from seqarch.ops.gru import FORMS
from seqarch.types import Array, Float


class GRUState(NamedTuple):
    """The state of a GRU: its last output h."""

    h: Float[Array, "B E"]


class GRU(CellMixer):
    """The GRU.

    hidden: width E of the state; None: D
    method: a form of ops.gru; "auto": the best one on the device
    state_dtype: dtype of the state between calls
    """

    forms, gates = FORMS, 3
    state_axes = GRUState(h=("batch", "inner"))

    def _add(self):
        self.bias = nnx.Param(jnp.zeros(3 * self.hidden), axes=("inner",), decay=False)

    def _run(self, x, state, method, **masks):
        h0, u = state.h.astype(jnp.float32), time_major(self.inp, x)
        hs, h = ops.gru(u, self._weights(), self.bias[...], h0, method=method, **masks)
        return time_major(self.out, hs), GRUState(h.astype(self.state_dtype))
