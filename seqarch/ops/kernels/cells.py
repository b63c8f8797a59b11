"""Cells as the kernels of `seqarch.ops.kernels.cell` run them: what gates make of a token.

All numbers are float32 of some units [B, L], which are independent of each other once W h is known.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.types import Array

Gates = Sequence[Array]
State = tuple[Array, ...]


class CellKernel(NamedTuple):
    """A cell whose gates a depend on the projections u of the input and on s = W h.

    The last gates may take both apart, and a is then u; the others take a = u + s.

    Attributes:
      name: that of its kernels.
      gates: number of gates G.
      states: number of state arrays S, of which the first is h.
      apart: number of gates that take u and s apart.
      update: (a, s of gates that take it apart, state) -> state, for one token.
      gradient: (a, s, state, d) -> d_a, d_s, d_state; the gradients of the arguments of `update`
        where d are those of its state; that of h is without its part by way of s.
    """

    name: str
    gates: int
    states: int
    apart: int
    update: Callable[[Gates, Gates, State], State]
    gradient: Callable[[Gates, Gates, State, State], tuple[Gates, Gates, State]]


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gru_gates(a: Gates, s: Gates) -> tuple[Array, Array, Array]:
    r, z = _sigmoid(a[0]), _sigmoid(a[1])
    return r, z, jnp.tanh(a[2] + r * s[0])


def _gru(a: Gates, s: Gates, state: State) -> State:
    _, z, n = _gru_gates(a, s)
    return (n + z * (state[0] - n),)


def _gru_gradient(a: Gates, s: Gates, state: State, d: State) -> tuple[Gates, Gates, State]:
    r, z, n = _gru_gates(a, s)
    dn = d[0] * (1 - z) * (1 - n * n)
    dz = d[0] * (state[0] - n) * z * (1 - z)
    dr = dn * s[0] * r * (1 - r)
    return (dr, dz, dn), (dn * r,), (d[0] * z,)


GRU = CellKernel("gru", 3, 1, 1, _gru, _gru_gradient)


def _lstm_gates(a: Gates) -> tuple[Array, ...]:
    i, f, z, o = a
    return _sigmoid(i), _sigmoid(f), jnp.tanh(z), _sigmoid(o)


def _lstm(a: Gates, s: Gates, state: State) -> State:
    i, f, z, o = _lstm_gates(a)
    c = f * state[1] + i * z
    return o * jnp.tanh(c), c


def _lstm_gradient(a: Gates, s: Gates, state: State, d: State) -> tuple[Gates, Gates, State]:
    i, f, z, o = _lstm_gates(a)
    y = jnp.tanh(f * state[1] + i * z)
    dc = d[1] + d[0] * o * (1 - y * y)
    di, df = dc * z * i * (1 - i), dc * state[1] * f * (1 - f)
    dz, do = dc * i * (1 - z * z), d[0] * y * o * (1 - o)
    return (di, df, dz, do), (), (jnp.zeros_like(dc), dc * f)


LSTM = CellKernel("lstm", 4, 2, 0, _lstm, _lstm_gradient)


NOTHING = -1e30  # the logarithm of what an empty state carries


class _SLSTM(NamedTuple):
    """The numbers of a token of the sLSTM, by the names of seqarch.ops.slstm.

    Attributes:
      log_f: the logarithm of the forget gate.
      carried: that of what the state carries, before the stabiliser.
      f, i: the gates, times exp(-m).
    """

    log_f: Array
    carried: Array
    f: Array
    i: Array
    z: Array
    o: Array
    c: Array
    n: Array
    m: Array


def _slstm_token(forget: str, a: Gates, state: State) -> _SLSTM:
    _, c, n, m = state
    log_f = jax.nn.log_sigmoid(a[1]) if forget == "sigmoid" else a[1]
    carried = jnp.where(n < 0.5, NOTHING, log_f + m)
    m = jnp.maximum(carried, a[0])
    f, i, z = jnp.exp(carried - m), jnp.exp(a[0] - m), jnp.tanh(a[2])
    return _SLSTM(log_f, carried, f, i, z, _sigmoid(a[3]), f * c + i * z, f * n + i, m)


def _slstm(forget: str, a: Gates, s: Gates, state: State) -> State:
    x = _slstm_token(forget, a, state)
    return x.o * x.c / x.n, x.c, x.n, x.m


def _slstm_gradient(
    forget: str, a: Gates, s: Gates, state: State, d: State
) -> tuple[Gates, Gates, State]:
    _, c, n, _ = state
    x = _slstm_token(forget, a, state)
    y = x.c / x.n
    d_y = d[0] * x.o / x.n
    dc, dn = d[1] + d_y, d[2] - d_y * y
    to_f, to_i = (dc * c + dn * n) * x.f, (dc * x.z + dn) * x.i
    # m is the larger one of two logarithms, and half of each where they are equal.
    dm = d[3] - to_f - to_i
    share = jnp.where(x.carried > a[0], 1.0, jnp.where(x.carried < a[0], 0.0, 0.5))
    d_carried = jnp.where(n < 0.5, 0.0, to_f + dm * share)
    df = d_carried * (1 - jnp.exp(x.log_f)) if forget == "sigmoid" else d_carried
    di, dz = to_i + dm * (1 - share), dc * x.i * (1 - x.z * x.z)
    do = d[0] * y * x.o * (1 - x.o)
    return (di, df, dz, do), (), (jnp.zeros_like(dc), dc * x.f, dn * x.f, d_carried)


SLSTM = {
    forget: CellKernel("slstm", 4, 4, 0, partial(_slstm, forget), partial(_slstm_gradient, forget))
    for forget in ("sigmoid", "exp")
}
