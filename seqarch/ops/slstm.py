"""The sLSTM: an LSTM with exponential gates, a normaliser and recurrent weights per head.

    i, f, z, o = u_t + R h_{t-1}
    c_t = exp(log f_t) c_{t-1} + exp(i) tanh(z)       n_t = exp(log f_t) n_{t-1} + exp(i)
    h_t = sigmoid(o) c_t / n_t

with log f_t = log sigmoid(f), or f itself where the forget gate is exponential, too. c and n are
kept times exp(-m_t), which leaves h as it is:

    m_t = max(log f_t + m_{t-1}, i)
    c_t = exp(log f_t + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(z)       n_t likewise

An empty state has nothing to carry, whatever its m: m_t = i, so that c_t = tanh(z) and n_t = 1.
From then on one of the two factors is 1 at each token, so n_t is never below 1, and a state is
empty where n is below 1/2. Zeros are therefore an empty state, and no quotient is near 0 / 0.

u is the projection of the input with its biases, computed outside the loop.

Source: Beck et al. 2024, "xLSTM: extended long short-term memory", section 2.2, equations 8 to 17.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.errors import unknown
from seqarch.ops import cell
from seqarch.ops.kernels import cells as kernels
from seqarch.types import Array, Bool, Float

FORMS = cell.FORMS
FORGET = {"sigmoid": jax.nn.log_sigmoid, "exp": lambda f: f}


def slstm(
    u: Float[Array, "B T H 4 K"],
    R: Float[Array, "H K 4 K"],
    state: tuple[Float[Array, "B H K"], ...],
    *,
    forget: str = "sigmoid",
    starts: Bool[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    method: str = "auto",
) -> tuple[Float[Array, "B T H K"], tuple[Float[Array, "B H K"], ...]]:
    """Returns all outputs h in u's dtype, and the last h, c, n and m in float32.

    Args:
      u: projections of the inputs to the gates i, f, z and o of each head.
      R: recurrent weights of the heads, to the same gates.
      state: h, c, n and m before the first token; zeros are an empty state.
      forget: "sigmoid" or "exp", what the forget gate is.
      starts: whether the state is forgotten before a token.
      valid: whether a token exists; where it does not, the state stays as it is.
      method: a name in FORMS, or "auto".

    Raises:
      UserError: for another name of a forget gate.
    """
    if forget not in CELLS:
        raise unknown("forget gate", forget, CELLS)
    return cell.run(CELLS[forget], u, R, state, starts=starts, valid=valid, method=method)


def _update(forget: str, u: Array, s: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    _, c, n, m = state
    i, f, z, o = jnp.unstack(u.astype(jnp.float32) + s, axis=-2)
    carried = jnp.where(n < 0.5, kernels.NOTHING, FORGET[forget](f) + m)
    m = jnp.maximum(carried, i)
    f, i = jnp.exp(carried - m), jnp.exp(i - m)
    c, n = f * c + i * jnp.tanh(z), f * n + i
    return jax.nn.sigmoid(o) * c / n, c, n, m


def _cell(forget: str) -> cell.Cell:
    update, kernel = partial(_update, forget), kernels.SLSTM[forget]
    return cell.Cell(update, h="hk", W="hkgj", s="hgj", kernel=kernel)


CELLS = {forget: _cell(forget) for forget in FORGET}
