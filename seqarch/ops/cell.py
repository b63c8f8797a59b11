"""Nonlinear recurrent cells, whose gates depend on the last output through a product W h:

    s_t = W h_{t-1},    (h_t, ...) = update(u_t, s_t, (h_{t-1}, ...))

u_t is the projection of the input, which is computed before the loop. The next state is no affine
function of the last one, so all forms but "newton" are sequential in T.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.kernels import cells as kernels
from seqarch.ops.newton import NewtonCell, newton
from seqarch.ops.numerics import behind, dot, multiply_rows
from seqarch.types import Array, Bool, Float, PyTree


class Cell(NamedTuple):
    """A cell whose state arrays are [B, *S]; its gates u and s have an axis more before the last.

    update: (u, s, state) -> state, for one token, in float32; h is the state's first array
    h: the einsum letters of S
    W: those of the recurrent weights
    s: those of the gates
    kernel: the same for the kernels of a TPU
    """

    update: Callable[[Array, Array, tuple[Array, ...]], tuple[Array, ...]]
    h: str
    W: str
    s: str
    kernel: kernels.CellKernel

    def product(self, h: Array, W: Array) -> Array:
        """Returns W h."""
        product = lambda h: dot(f"...{self.h},{self.W}->...{self.s}", h, W)
        return multiply_rows(product, h.astype(W.dtype))

    def within(self, W: Array) -> Array:
        """Returns the derivative of the gates s of a unit with respect to its own h."""
        e, f = self.h[-1], self.s[-1]
        return jnp.einsum(f"{self.W.replace(f, e)}->{self.s.replace(f, e)}", W)

    def to_state(self, d_s: Array, W: Array) -> Array:
        """Returns the cotangent of h, given that of W h."""
        return dot(f"...{self.s},{self.W}->...{self.h}", d_s.astype(W.dtype), W)

    def to_weights(self, h: Array, d_s: Array) -> Array:
        """Returns the cotangent of W over all tokens [T, B], given that of W h."""
        return dot(f"xy{self.h},xy{self.s}->{self.W}", h, d_s)


def run(
    cell: Cell,
    u: Float[Array, "B T *U"],
    W: Array,
    state: tuple[Array, ...],
    *,
    starts: Bool[Array, "B T"] | None,
    valid: Bool[Array, "B T"] | None,
    method: str,
) -> tuple[Array, tuple[Array, ...]]:
    """Returns all h in u's dtype, and the last state in float32.

    Args:
      cell: the cell.
      u: projections of the inputs.
      W: recurrent weights.
      state: the state before the first token; an empty one is zero.
      starts: whether the state is forgotten before a token.
      valid: whether a token exists; where it does not, the state stays as it is.
      method: a name in FORMS, or "auto".
    """
    keep = None if starts is None else 1.0 - starts
    u_t, keep, valid = jax.tree.map(_swapped, (u, keep, valid))
    hs, state = FORMS.pick(method)(cell, u_t, keep, valid, W, state)
    return _swapped(hs).astype(u.dtype), state


def _swapped(x: Array) -> Array:
    """Swaps rows and time, the first axes; the others are one, as a TPU pads small axes."""
    flat = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return flat.swapaxes(0, 1).reshape(x.shape[1], x.shape[0], *x.shape[2:])


def _scaled(keep: Array | None, state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Returns the state times `keep` [...], which has its leading axes."""
    return state if keep is None else tuple(x * behind(keep, x) for x in state)


def _chosen(valid: Array | None, then: tuple, otherwise: tuple) -> tuple[Array, ...]:
    """Returns the rows of `then` where they are valid, else those of `otherwise`."""
    if valid is None:
        return then
    return tuple(jnp.where(behind(valid, a), a, b) for a, b in zip(then, otherwise, strict=True))


def _states(
    cell: NewtonCell, u: Array, keep: Array | None, valid: Array | None, W: PyTree, state: tuple
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Returns the states after all tokens [T, B, *S], and the last one."""

    def step(state, inputs):
        u, keep, valid = inputs
        before = _scaled(keep, state)
        after = cell.update(u, cell.product(before[0], W), before)
        state = _chosen(valid, after, state)
        return state, state

    state, states = jax.lax.scan(step, state, (u, keep, valid))
    return states, state


def _sequential(cell, u, keep, valid, W, state):
    states, state = _states(cell, u, keep, valid, W, state)
    return states[0], state


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recompute(cell, u, keep, valid, W, state):
    """Does what `_sequential` does, and keeps only the states for the backward pass.

    The backward pass recomputes W h by one product over all tokens, and the gates of a token where
    it needs them. The gradient of W is one product over all tokens.
    """
    return _sequential(cell, u, keep, valid, W, state)


def _forward(cell, u, keep, valid, W, state):
    states, last = _states(cell, u, keep, valid, W, state)
    return (states[0], last), (u, keep, valid, W, state, states)


def _backward(cell, saved, cotangents):
    u, keep, valid, W, state, states = saved
    d_hs, d_state = cotangents
    previous = tuple(jnp.concatenate([x[None], xs[:-1]]) for x, xs in zip(state, states))
    before = _scaled(keep, previous)

    def step(d_state, inputs):
        d_h, u, s, before, keep, valid = inputs
        d_state = (d_state[0] + d_h, *d_state[1:])
        _, pull = jax.vjp(cell.update, u, s, before)
        zeros = tuple(jnp.zeros_like(x) for x in d_state)
        d_u, d_s, (d_h, *rest) = pull(_chosen(valid, d_state, zeros))
        d_before = _scaled(keep, (d_h + cell.to_state(d_s, W), *rest))
        return _chosen(valid, d_before, d_state), (d_u, d_s)

    inputs = (d_hs, u, cell.product(before[0], W), before, keep, valid)
    d_state, (d_u, d_s) = jax.lax.scan(step, d_state, inputs, reverse=True)
    d_W = cell.to_weights(before[0], d_s).astype(W.dtype)
    return d_u, None if keep is None else jnp.zeros_like(keep), None, d_W, d_state


_recompute.defvjp(_forward, _backward)


def _pallas(cell, u, keep, valid, W, state):
    """Computes the kernels for a TPU, or `_recompute` where those cannot, said once."""
    flat = lambda x, axes: x.reshape(*x.shape[:axes], -1)
    states, weights = tuple(flat(x, 1) for x in state), W.reshape(*state[0].shape[1:], -1)
    found = in_kernels(cell.kernel, flat(u, 2), keep, valid, weights, None, states)
    if found is None:
        return _recompute(cell, u, keep, valid, W, state)
    hs, last = found
    return hs.reshape(-1, *state[0].shape), tuple(x.reshape(state[0].shape) for x in last)


def in_kernels(
    cell: kernels.CellKernel,
    u: Float[Array, "T B U"],
    keep: Float[Array, "T B"] | None,
    valid: Bool[Array, "T B"] | None,
    W: Float[Array, "*H K F"],
    b: Float[Array, "U"] | None,
    state: tuple[Float[Array, "B E"], ...],
) -> tuple[Float[Array, "T B E"], tuple[Float[Array, "B E"], ...]] | None:
    """Returns all h and the last state by kernels for a TPU (see `seqarch.ops.kernels.cell.scan`).

    Returns None, and says once why, for shapes that they cannot compute; and for a single token, as
    of decoding: the weights are read once in any case.
    """
    from seqarch.ops.kernels.call import say_once
    from seqarch.ops.kernels.cell import scan, why_not

    if reason := why_not(u, W):
        say_once(f"{cell.name}: method=recompute in place of pallas, as {reason}")
    if reason or len(u) == 1:
        return None
    return scan(cell, u, keep, valid, W, b, state)


FORMS = Forms(
    {"sequential": _sequential, "recompute": _recompute, "newton": newton},
    cpu="recompute",
    accelerator="recompute",
    tpu="pallas",
    kernels={"pallas": Kernel("tpu", _pallas)},
)
