"""Cells as the kernels of `seqarch.ops.kernels.cell` run them: what gates make of a token.

All numbers are float32 of some units [B, L], which are independent of each other once W h is known.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from seqarch.types import Array

Gates = Sequence[Array]
State = tuple[Array, ...]


class Cell(NamedTuple):
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


GRU = Cell("gru", 3, 1, 1, _gru, _gru_gradient)
