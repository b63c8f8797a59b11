"""The cases of Newton's method: cells in it, beside the form in use and token by token.

A case has one row. Weights are as their mixer initialises them, and its inputs have unit variance.
Iterations are counted by a program of their own.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.cases import Case, Ready, Sizes, make_mixer, normal, pass_cases
from seqarch import ops
from seqarch.ops.forms import Forms, family
from seqarch.ops.gru import CELL as GRU
from seqarch.ops.gru import FORMS as GRU_FORMS
from seqarch.ops.lstm import CELL as LSTM
from seqarch.ops.lstm import FORMS as LSTM_FORMS
from seqarch.ops.newton import (
    Iterations,
    NonlinearRecurrence,
    adjoint,
    newton,
    output_cotangents,
    states,
)
from seqarch.types import Array, PyTree

GROUP = NEWTON = "newton"
SEQUENTIAL = "sequential"
STATES, ADJOINT, CONVERGED = "iterations", "adjoint_iterations", "converged"  # metrics


class TimedCell(NamedTuple):
    """A cell that is timed.

    Attributes:
      forms: those of its op.
      call: takes a form and the arguments.
      args: returns them: projections of `tokens` inputs, weights, and an empty state.
      recurrence: makes of them what Newton's method solves.
    """

    forms: Forms
    call: Callable
    args: Callable[[Sizes, int], tuple[Array, ...]]
    recurrence: Callable[..., NonlinearRecurrence]


def _gru_args(sizes: Sizes, tokens: int) -> tuple[Array, ...]:
    mixer = make_mixer("gru", sizes)
    u = mixer.inp(normal(1, tokens, sizes.dim))
    return u, mixer.recurrent[...], mixer.bias[...], jnp.zeros((1, mixer.hidden))


def _gru(form: str, u: Array, W: Array, b: Array, h0: Array) -> tuple[Array, Array]:
    return ops.gru(u, W, b, h0, method=form)


def _gru_recurrence(u: Array, W: Array, b: Array, h0: Array) -> NonlinearRecurrence:
    return NonlinearRecurrence(GRU, u.swapaxes(0, 1), None, None, (W, b), h0[..., None])


def _lstm_args(sizes: Sizes, tokens: int) -> tuple[Array, ...]:
    mixer = make_mixer("lstm", sizes)
    u, empty = mixer.inp(normal(1, tokens, sizes.dim)), jnp.zeros((1, mixer.hidden))
    return u, mixer.recurrent[...], empty, empty


def _lstm(form: str, u: Array, W: Array, h0: Array, c0: Array) -> tuple[Array, tuple]:
    return ops.lstm(u, W, h0, c0, method=form)


def _lstm_recurrence(u: Array, W: Array, h0: Array, c0: Array) -> NonlinearRecurrence:
    u = u.swapaxes(0, 1).reshape(u.shape[1], 1, 4, -1)
    return NonlinearRecurrence(
        LSTM, u, None, None, W.reshape(len(W), 4, -1), jnp.stack((h0, c0), -1)
    )


CELLS = {
    "gru": TimedCell(GRU_FORMS, _gru, _gru_args, _gru_recurrence),
    "lstm": TimedCell(LSTM_FORMS, _lstm, _lstm_args, _lstm_recurrence),
}


def newton_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields a list for each cell and length: the form in use, token by token, and Newton's."""
    for name, cell in CELLS.items():
        used = cell.forms.auto(family(jax.default_backend()))
        for tokens in sizes.solved:
            args, found = partial(cell.args, sizes, tokens), []
            for form in dict.fromkeys((used, SEQUENTIAL, NEWTON)):
                call, label = partial(cell.call, form), f"{name}, {form}"
                found += pass_cases(GROUP, label, (1, tokens), call, args)
            found[-1] = found[-1]._replace(start=partial(_counted, found[-1].start, cell))
            yield found


def _counted(start: Callable[[], Ready], cell: TimedCell) -> Ready:
    """Starts the training pass of Newton's method, and counts its iterations."""
    ready = start()
    return ready._replace(counts=count(cell, *ready.prepare()))


def count(cell: TimedCell, args: tuple[Array, ...], cotangents: PyTree) -> dict[str, int]:
    """Returns the iterations of a training pass, and whether all of them converged, by metric.

    `cotangents` are those of the cell's outputs.
    """

    @jax.jit
    def solve(args: tuple[Array, ...], cotangents: PyTree) -> tuple[Array, ...]:
        recurrence = cell.recurrence(*args)
        found = states(recurrence)
        d_hs, *d_state = jax.tree.leaves(cotangents)
        d_x = output_cotangents(found.x, d_hs.swapaxes(0, 1), tuple(d_state))
        back = adjoint(recurrence, found.x, d_x)
        return found.iterations, back.iterations, found.converged & back.converged

    return dict(zip((STATES, ADJOINT, CONVERGED), map(int, solve(args, cotangents))))


def forms_on(platform: str, counts: Mapping[tuple[str, int], Iterations], dim: int) -> dict:
    """Returns what `benchmarks.estimates.estimate_parts` takes, a part for each cell and length.

    The forms are those that a platform uses, with its kernels and without, and Newton's method.

    Args:
      platform: of the device.
      counts: iterations by cell and tokens; a program takes no more and has no other way.
      dim: width D of the cells.
    """
    sizes, parts = dataclasses.replace(Sizes(), dim=dim), {}
    for (name, tokens), most in counts.items():
        forms, parts[f"{name}, {tokens} tokens"] = CELLS[name].forms, (made := [])
        for form in (forms.auto(platform), forms.auto("accelerator"), NEWTON):
            at = {"cell": name, "tokens": tokens, "method": form}
            made.append((at, partial(_program, name, form, sizes, tokens, most)))
    return parts


def _program(
    name: str, form: str, sizes: Sizes, tokens: int, most: Iterations
) -> tuple[Callable, tuple]:
    cell = CELLS[name]
    call = partial(solved, cell, most) if form == NEWTON else partial(cell.call, form)
    return call, jax.eval_shape(partial(cell.args, sizes, tokens))


def solved(cell: TimedCell, most: Iterations, *args: Array) -> tuple[Array, tuple[Array, ...]]:
    """Returns all h [T, 1, E] and the last state, after `most` iterations."""
    at = cell.recurrence(*args)
    first = tuple(jnp.moveaxis(at.first, -1, 0))
    return newton(at.cell, at.u, at.keep, at.valid, at.W, first, most)
