"""The readings that the clauses compare: ways in which a mixer reads rows, with their gradients.

Each takes (mixer, x, state, starts, lengths, cuts) and returns the outputs and the final state.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.mixers.base import SequenceMixer, select_rows
from seqarch.ops.numerics import valid_tokens
from seqarch.types import Array, Bool, Float, Int, PyTree, State


class Example(NamedTuple):
    """The arguments of a reading.

    mixer: under test
    x: inputs
    state: after earlier tokens
    starts: whether a token is the first of a document
    lengths: tokens of each row, before its padding
    cuts: how many of them are prefilled first, where a reading prefills rows in two pieces
    """

    mixer: SequenceMixer
    x: Float[Array, "B T D"]
    state: State
    starts: Bool[Array, "B T"]
    lengths: Int[Array, "B"]
    cuts: Int[Array, "B"]

    def unpacked(self) -> "Example":
        """Returns the example with one document in each row."""
        return self._replace(starts=jnp.zeros_like(self.starts))

    def unpadded(self) -> "Example":
        """Returns the example with rows of full length."""
        return self._replace(lengths=jnp.full_like(self.lengths, self.x.shape[1]))

    def cut(self) -> "Example":
        """Returns the example with row b cut after its first b tokens."""
        return self._replace(cuts=jnp.arange(len(self.cuts)))


class Cotangent(NamedTuple):
    """Random cotangents of a reading: their key, and weights of tokens and of rows' states."""

    key: Array
    tokens: Float[Array, "B T"]
    state: Float[Array, "B"]


class Result(NamedTuple):
    """The values (outputs, state) of a reading, and its gradients for (mixer, x, state)."""

    values: PyTree
    gradients: PyTree


def steps(
    mixer, x: Array, state: State, starts: Array, lengths: Array, cuts: Array | None = None
) -> tuple[Array, State]:
    """Scans `step`; the state is reset before each start, and does not change in padding."""
    empty = mixer.init_state(x.shape[0], capacity(x.shape[1]))

    def body(state: State, inputs) -> tuple[State, Array]:
        x, starts, valid = inputs
        before = select_rows(starts & valid, empty, state)
        y, after = mixer.step(x, before)
        return select_rows(valid, after, state), jnp.where(valid[:, None], y, 0)

    valid = valid_tokens(lengths, *x.shape[:2])
    by_time = [jnp.moveaxis(a, 1, 0) for a in (x, starts, valid)]
    state, y = jax.lax.scan(body, state, by_time)
    return jnp.moveaxis(y, 0, 1), state


def prefill(
    mixer, x: Array, state: State, starts: Array, lengths: Array, cuts: Array | None = None
) -> tuple[Array, State]:
    """Prefills rows as one document of full length; ignores the rest."""
    return mixer.prefill(x, state)


def masked(
    mixer, x: Array, state: State, starts: Array, lengths: Array, cuts: Array | None = None
) -> tuple[Array, State]:
    """Prefills packed and padded rows; outputs of padding are zero."""
    y, state = mixer.prefill(x, state, starts, lengths)
    return jnp.where(valid_tokens(lengths, *x.shape[:2])[..., None], y, 0), state


def pieces(
    mixer, x: Array, state: State, starts: Array, lengths: Array, cuts: Array
) -> tuple[Array, State]:
    """Prefills the first cuts[b] tokens of row b, then its others; outputs of padding are zero.

    The clauses about packing, padding and cuts have this one program in common.
    """

    def piece(state: State, inputs: tuple[Array, Array, Array]) -> tuple[State, Array]:
        x, starts, lengths = inputs
        y, state = mixer.prefill(x, state, starts, lengths)
        return state, y

    B, T = x.shape[:2]
    first = jnp.minimum(cuts, lengths)
    rest = jnp.minimum(first[:, None] + jnp.arange(T)[None], T - 1)
    remaining = jnp.take_along_axis(x, rest[..., None], axis=1)
    starts = jnp.stack([starts, jnp.take_along_axis(starts, rest, axis=1)])
    # A loop, so that the prefill is compiled once.
    inputs = jnp.stack([x, remaining]), starts, jnp.stack([first, lengths - first])
    state, (y_a, y_b) = jax.lax.scan(piece, state, inputs)
    back = jnp.maximum(jnp.arange(T)[None] - first[:, None], 0)
    y_b = jnp.take_along_axis(y_b, back[..., None], axis=1)
    y = jnp.where(valid_tokens(first, B, T)[..., None], y_a, y_b)
    return jnp.where(valid_tokens(lengths, B, T)[..., None], y, 0), state


def called(
    mixer, x: Array, state: State, starts: Array, lengths: Array, cuts: Array | None = None
) -> tuple[Array, tuple]:
    """Calls the mixer, which starts from an empty state and returns none."""
    return mixer(x, starts), ()


def capacity(time: int) -> int:
    """Returns the capacity of an example's state, for the tokens before it and its own."""
    return 2 * time


def values_and_gradients(function: Callable, example: Example, cotangent: Cotangent) -> Result:
    """Returns the values of a reading, and the gradients of its floating leaves (0 for others)."""
    arguments, rest = example[:3], example[3:]
    leaves, structure = jax.tree.flatten(arguments)
    floating = [is_float(leaf) for leaf in leaves]

    def of_floats(floats: list[Array]) -> tuple[list[Array], PyTree]:
        floats = iter(floats)
        given = [next(floats) if yes else leaf for yes, leaf in zip(floating, leaves)]
        values = function(*structure.unflatten(given), *rest)
        return [leaf for leaf in jax.tree.leaves(values) if is_float(leaf)], values

    floats = [leaf for yes, leaf in zip(floating, leaves) if yes]
    outputs, pullback, values = jax.vjp(of_floats, floats, has_aux=True)
    (gradients,) = pullback(cotangents(outputs, cotangent))
    gradients = iter(gradients)
    filled = [next(gradients) if yes else jnp.zeros(()) for yes in floating]
    return Result(values, structure.unflatten(filled))


def cotangents(outputs: list[Array], cotangent: Cotangent) -> list[Array]:
    """Returns cotangents for a reading's outputs and the floating leaves of its state."""
    noise = [
        jax.random.normal(jax.random.fold_in(cotangent.key, index), leaf.shape, leaf.dtype)
        for index, leaf in enumerate(outputs)
    ]
    first, *rest = noise
    of_rows = lambda leaf: cotangent.state.reshape(-1, *(1,) * (leaf.ndim - 1))
    return [cotangent.tokens[..., None] * first, *(of_rows(leaf) * leaf for leaf in rest)]


def is_float(leaf: Array) -> bool:
    """Returns whether a leaf is of a floating dtype."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)
