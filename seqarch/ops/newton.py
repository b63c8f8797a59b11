"""Nonlinear cells in parallel over tokens, by Newton's method on all states at once.

The states x_t = f_t(x_{t-1}) solve a system of equations. An iteration linearises them around the
states so far, and solves the linear recurrence of the corrections d by an associative scan:

    d_t = J_t d_{t-1} + f_t(x_{t-1}) - x_t,    x_t <- x_t + d_t

J_t is the Jacobian within each unit: K x K for a cell with K state arrays. What units do to one
another through W h is left to the next iteration. After i iterations the first i states are exact,
and far fewer than T iterations are enough where W h matters little.

Gradients are those of the states, not of the iterations: the adjoint l_t = g_t + F_{t+1}^T l_{t+1},
where F is the whole Jacobian, is a linear system that the same iterations solve.

Where iterations do not converge, tokens are taken one after the other. A program of a given most
of iterations lacks that way out, so that its costs are known.

Source: Lim et al. 2024, "Parallelizing non-linear sequential models over the sequence length"
(DEER); Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs", for
the Jacobian's diagonal; Danieli et al. 2025, "ParaRNN", for blocks of a unit's states.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from seqarch.ops.affine import MatrixAffine, compose
from seqarch.ops.numerics import behind
from seqarch.types import Array, Bool, Float, Int, PyTree

TOLERANCE = 1e-5  # of the largest correction, as a fraction of the largest state, or of 1
MOST = 100  # iterations, after which tokens are taken one after the other


@runtime_checkable
class NewtonCell(Protocol):
    """A cell whose units depend on one another through s = W h alone."""

    update: Callable[[Array, Array, tuple[Array, ...]], tuple[Array, ...]]

    def product(self, h: Array, W: PyTree) -> Array:
        """Returns s."""

    def within(self, W: PyTree) -> Array:
        """Returns the derivative of the gates s of a unit with respect to its own h."""


class Solution(NamedTuple):
    """States that solve a recurrence.

    x: [T, B, *S, K]
    iterations: how many it took
    converged: whether the last correction is within TOLERANCE
    """

    x: Float[Array, "T B *S K"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class Iterations(NamedTuple):
    """How many iterations a program takes for the states, and for their cotangents."""

    states: int
    adjoint: int


def solve(
    function: Callable[[Array], Array],
    jacobian: Callable[[Array], Array],
    guess: Float[Array, "T B *S K"],
    most: int | None = None,
) -> Solution:
    """Solves x = function(x), where function(x)_t depends on x_{t-1} alone.

    Args:
      function: of all states.
      jacobian: returns its derivative [T, B, *S, K, K] within each unit.
      guess: the first states.
      most: iterations that costs of the program count; None: MOST, and costs are unknown.
    """
    named = f"at_most_{most}_trips"  # tells seqarch.costs.trips
    scope = contextlib.nullcontext() if most is None else jax.named_scope(named)

    def iterate(at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, count, _ = at
        maps = MatrixAffine(jacobian(x), (function(x) - x)[..., None])
        d = jax.lax.associative_scan(compose, maps).value[..., 0]
        x = x + d
        return x, count + 1, jnp.abs(d).max() / jnp.maximum(1.0, jnp.abs(x).max())

    def unfinished(at: tuple[Array, Array, Array]) -> Array:
        return (at[1] < (MOST if most is None else most)) & ~(at[2] <= TOLERANCE)

    start = guess, jnp.zeros((), jnp.int32), jnp.array(jnp.inf)
    with scope:
        x, count, error = jax.lax.while_loop(unfinished, iterate, start)
    return Solution(x, count, error <= TOLERANCE)


class NonlinearRecurrence(NamedTuple):
    """A cell on given tokens, whose states are [T, B, *S, K]: all state arrays in one."""

    cell: NewtonCell
    u: Float[Array, "T B *U"]
    keep: Float[Array, "T B"] | None
    valid: Bool[Array, "T B"] | None
    W: PyTree
    first: Float[Array, "B *S K"]

    def after(self, u: Array, W: PyTree, previous: Array) -> Array:
        """Returns the states after tokens, given those before them."""
        before = previous if self.keep is None else previous * behind(self.keep, previous)
        state = tuple(jnp.moveaxis(before, -1, 0))
        made = jnp.stack(self.cell.update(u, self.cell.product(state[0], W), state), -1)
        if self.valid is None:
            return made
        return jnp.where(behind(self.valid, made), made, previous)

    def previous(self, x: Array) -> Array:
        """Returns the states before tokens, given those after them."""
        return jnp.concatenate([self.first[None], x[:-1]])

    def function(self, x: Array) -> Array:
        """Returns the states after all tokens, by those before them in `x`."""
        return self.after(self.u, self.W, self.previous(x))

    def jacobian(self, x: Array) -> Array:
        """Returns the derivative of `function` within each unit."""
        before = self.previous(x)
        before = before if self.keep is None else before * behind(self.keep, before)
        state = tuple(jnp.moveaxis(before, -1, 0))
        s, own = self.cell.product(state[0], self.W), self.cell.within(self.W)
        columns = []
        for index in range(len(state)):
            d_s = jnp.broadcast_to(own if index == 0 else 0.0, s.shape).astype(s.dtype)
            d_state = tuple(jnp.full_like(each, i == index) for i, each in enumerate(state))
            update = partial(self.cell.update, self.u)
            columns.append(jnp.stack(jax.jvp(update, (s, state), (d_s, d_state))[1], -1))
        found = jnp.stack(columns, -1)
        if self.keep is not None:
            found = found * behind(self.keep, found)
        if self.valid is not None:
            stay = jnp.broadcast_to(jnp.eye(len(state)), found.shape)
            found = jnp.where(behind(self.valid, found), found, stay)
        return found


def states(recurrence: NonlinearRecurrence, most: int | None = None) -> Solution:
    """Returns the states after all tokens; without `most`, token by token if not converged."""

    def one_by_one() -> Array:
        def step(x: Array, inputs: tuple) -> tuple[Array, Array]:
            u, keep, valid = inputs
            at = recurrence._replace(keep=keep, valid=valid)
            x = at.after(u, recurrence.W, x)
            return x, x

        tokens = recurrence.u, recurrence.keep, recurrence.valid
        return jax.lax.scan(step, recurrence.first, tokens)[1]

    shape = (len(recurrence.u), *recurrence.first.shape)
    guess = jnp.broadcast_to(recurrence.first, shape)
    found = solve(recurrence.function, recurrence.jacobian, guess, most)
    if most is not None:
        return found
    return found._replace(x=jax.lax.cond(found.converged, lambda: found.x, one_by_one))


def adjoint(
    recurrence: NonlinearRecurrence, x: Array, d_x: Array, most: int | None = None
) -> Solution:
    """Returns the cotangents of the states `x`, given those of outputs, d_x [T, B, *S, K].

    Without `most`, they are found token by token where iterations do not converge.
    """
    previous = recurrence.previous(x)
    after = partial(recurrence.after, recurrence.u, recurrence.W)
    pull = jax.vjp(after, previous)[1]
    transposed = jnp.swapaxes(recurrence.jacobian(x), -1, -2)

    def from_next(d: Array) -> Array:
        """Returns d_x plus what the next token passes back; both in reversed time."""
        back = jnp.flip(pull(jnp.flip(d, 0))[0], 0)
        return jnp.flip(d_x, 0) + jnp.concatenate([jnp.zeros_like(back[:1]), back[:-1]])

    def jacobian(_: Array) -> Array:
        back = jnp.flip(transposed, 0)
        return jnp.concatenate([jnp.zeros_like(back[:1]), back[:-1]])

    def one_by_one() -> Array:
        def step(d: Array, inputs: tuple) -> tuple[Array, Array]:
            d_x, previous, u, keep, valid = inputs
            at = recurrence._replace(keep=keep, valid=valid)
            d = d + d_x
            return jax.vjp(partial(at.after, u, recurrence.W), previous)[1](d)[0], d

        tokens = d_x, previous, recurrence.u, recurrence.keep, recurrence.valid
        return jax.lax.scan(step, jnp.zeros_like(d_x[0]), tokens, reverse=True)[1]

    found = solve(from_next, jacobian, jnp.flip(d_x, 0), most)
    if most is not None:
        return found._replace(x=jnp.flip(found.x, 0))
    d = jax.lax.cond(found.converged, lambda: jnp.flip(found.x, 0), one_by_one)
    return found._replace(x=d)


def output_cotangents(x: Array, d_hs: Array, d_state: tuple[Array, ...]) -> Array:
    """Returns those of the states `x` [T, B, *S, K], given those of all h and of the last state."""
    return jnp.zeros_like(x).at[..., 0].set(d_hs).at[-1].add(jnp.stack(d_state, -1))


@partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def newton(
    cell: NewtonCell,
    u: Float[Array, "T B *U"],
    keep: Float[Array, "T B"] | None,
    valid: Bool[Array, "T B"] | None,
    W: PyTree,
    state: tuple[Array, ...],
    most: Iterations | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """Returns all h and the last state; the arguments are those of forms in seqarch.ops.cell.

    With `most` iterations, nothing else follows where they do not converge.
    """
    return _forward(cell, u, keep, valid, W, state, most)[0]


def _forward(cell, u, keep, valid, W, state, most):
    recurrence = NonlinearRecurrence(cell, u, keep, valid, W, jnp.stack(state, -1))
    x = states(recurrence, most and most.states).x
    return (x[..., 0], tuple(jnp.moveaxis(x[-1], -1, 0))), (u, keep, valid, W, state, x)


def _backward(cell, most, saved, cotangents):
    u, keep, valid, W, state, x = saved
    recurrence = NonlinearRecurrence(cell, u, keep, valid, W, jnp.stack(state, -1))
    d = adjoint(recurrence, x, output_cotangents(x, *cotangents), most and most.adjoint).x
    pull = jax.vjp(recurrence.after, u, W, recurrence.previous(x))[1]
    d_u, d_W, d_previous = pull(d)
    d_keep = None if keep is None else jnp.zeros_like(keep)
    return d_u, d_keep, None, d_W, tuple(jnp.moveaxis(d_previous[0], -1, 0))


newton.defvjp(_forward, _backward)
