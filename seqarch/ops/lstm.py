"""The long short-term memory, with forget gates and without peepholes:

    i_t = sigmoid(u^i_t + W_i h_{t-1})          f_t = sigmoid(u^f_t + W_f h_{t-1})
    z_t = tanh(u^z_t + W_z h_{t-1})             o_t = sigmoid(u^o_t + W_o h_{t-1})
    c_t = f_t c_{t-1} + i_t z_t                 h_t = o_t tanh(c_t)

u is the projection of the input with its biases, computed outside the loop.

Source: Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers et al. 2000, "Learning to
forget: continual prediction with LSTM", for the forget gate.
"""

import jax
import jax.numpy as jnp

from seqarch.ops import cell
from seqarch.ops.kernels import cells as kernels
from seqarch.types import Array, Bool, Float

FORMS = cell.FORMS


def lstm(
    u: Float[Array, "B T U"],
    W: Float[Array, "E U"],
    h0: Float[Array, "B E"],
    c0: Float[Array, "B E"],
    *,
    starts: Bool[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    method: str = "auto",
) -> tuple[Float[Array, "B T E"], tuple[Float[Array, "B E"], Float[Array, "B E"]]]:
    """Returns all outputs h in u's dtype, and the last h and c in float32.

    Args:
      u: projections of the inputs; the quarters of U are the gates i, f, z and o.
      W: recurrent weights.
      h0: the output before the first token.
      c0: the cell's contents before the first token.
      starts: whether the state is forgotten before a token.
      valid: whether a token exists; where it does not, the state stays as it is.
      method: a name in FORMS, or "auto".
    """
    E = W.shape[0]
    u, W = u.reshape(*u.shape[:2], 4, E), W.reshape(E, 4, E)
    return cell.run(CELL, u, W, (h0, c0), starts=starts, valid=valid, method=method)


def _update(u: Array, s: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    i, f, z, o = jnp.unstack(u.astype(jnp.float32) + s, axis=-2)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(z)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


CELL = cell.Cell(_update, h="e", W="egf", s="gf", kernel=kernels.LSTM)
