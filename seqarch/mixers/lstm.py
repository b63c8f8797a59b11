"""The LSTM, a recurrent cell with a memory that gates protect (see seqarch/ops/lstm.py).

    u_t = W x_t + b,    h_t, c_t = LSTM(u_t, h_{t-1}, c_{t-1}),    y_t = O h_t

The bias of the forget gate starts at 1, so that the memory lasts from the first step of training
on; all others start at 0. Training is sequential in T, as the recurrence is not linear; but see
method=newton (seqarch/ops/newton.py).

Source: Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers et al. 2000, "Learning to
forget: continual prediction with LSTM", for the forget gate; Jozefowicz et al. 2015, "An empirical
exploration of recurrent network architectures", for its bias.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch import ops
from seqarch.mixers.cell import CellMixer, time_major
from seqarch.ops.lstm import FORMS
from seqarch.types import Array, Float


class LSTMState(NamedTuple):
    """The state of an LSTM: its last output h, and the contents c of its memory."""

    h: Float[Array, "B E"]
    c: Float[Array, "B E"]


class LSTM(CellMixer):
    """The LSTM, with forget gates and without peepholes.

    hidden: width E of h and c; None: D
    method: a form of ops.lstm; "auto": the best one on the device
    state_dtype: dtype of the state between calls
    """

    forms, gates = FORMS, 4
    state_axes = LSTMState(h=("batch", "inner"), c=("batch", "inner"))

    def _add(self):
        forget = jnp.arange(4 * self.hidden) // self.hidden == 1
        self.inp.bias[...] = jnp.where(forget, 1.0, 0.0)

    def _run(self, x, state, method, **masks):
        h0, c0 = jax.tree.map(lambda s: s.astype(jnp.float32), tuple(state))
        u = time_major(self.inp, x)
        hs, state = ops.lstm(u, self._weights(), h0, c0, method=method, **masks)
        state = jax.tree.map(lambda s: s.astype(self.state_dtype), state)
        return time_major(self.out, hs), LSTMState(*state)
