"""Compares a function in float32 with its step-by-step definition in float64: values and gradients.

The definition, the oracle, is numpy alone; its derivatives are central differences.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.testing import assert_allclose

from seqarch.mixers.base import SequenceMixer

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def whole(x, bits, axis):
    """The factors of `seqarch.ops.exact`: integers, and the powers of two that they stand for."""
    x = np.asarray(x, np.float32).astype(np.float64)
    exponent = np.frexp(np.abs(x).max(axis, keepdims=True))[1] - bits
    return np.rint(x / 2.0**exponent).astype(np.int64), 2.0**exponent


def exact(x, W):
    """The products of `seqarch.ops.exact`, in integers."""
    bits = (24 - int(np.ceil(np.log2(len(W))))) // 2
    (x, of_x), (W, of_W) = whole(x, bits, -1), whole(W, bits, None)
    return (x @ W) * of_x * of_W.item()


def assert_form(function, oracle, arguments, tolerance=1e-5):
    """`function` in float32 has the values of `oracle` in float64, and its gradients by central
    differences.
    """
    arrays = [jnp.asarray(x, jnp.float32) for x in arguments]
    weights = [normal(*np.shape(x)) for x in jax.tree.leaves(oracle(*arguments))]

    def loss(f, xp, *arguments):
        return sum(
            (xp.asarray(w) * y).sum() for w, y in zip(weights, jax.tree.leaves(f(*arguments)))
        )

    def value(*arrays):
        y = function(*arrays)
        return sum(
            (jnp.asarray(w, jnp.float32) * y).sum() for w, y in zip(weights, jax.tree.leaves(y))
        ), y

    gradients, y = jax.jit(jax.grad(value, argnums=tuple(range(len(arrays))), has_aux=True))(
        *arrays
    )
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0)),
        y,
        oracle(*arguments),
    )
    for i, gradient in enumerate(np.asarray(each, np.float64) for each in gradients):
        direction = normal(*gradient.shape)
        shifted = [
            [x + s * 1e-5 * direction if i == j else x for j, x in enumerate(arguments)]
            for s in (1, -1)
        ]
        expected = (loss(oracle, np, *shifted[0]) - loss(oracle, np, *shifted[1])) / 2e-5
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs((gradient * direction).sum() - expected) <= 10 * tolerance * scale + 1e-6


def assert_near(found, expected, tolerance):
    """Asserts that arrays agree, relative to each number, and to the largest one, or 10 at most."""
    for x, y in zip(found, expected, strict=True):
        x, y = (np.asarray(each, np.float32) for each in (x, y))
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * min(abs(y).max(), 10))


def outputs_and_gradients(function, given, cotangents):
    """Returns, as a list, the arrays of `function(*given)` and the gradients of all of `given`.

    Args:
      function: returns several arrays.
      given: its arguments; those that are None have no gradient.
      cotangents: of the arrays, in any dtype.
    """

    def both(*given):
        outputs, pull = jax.vjp(function, *given)
        return outputs, pull(tuple(c.astype(o.dtype) for c, o in zip(cotangents, outputs)))

    return jax.tree.leaves(jax.jit(both)(*given))


def assert_same_program(function, other, *given):
    """Requires two functions of the same arguments to be lowered to the same program."""
    texts = [jax.jit(lambda *x, f=f: f(*x)).lower(*given).as_text() for f in (function, other)]
    assert texts[0] == texts[1]


def assert_mixer(
    make: Callable[..., SequenceMixer],
    step: Callable[[dict[str, np.ndarray], np.ndarray, Any], tuple[np.ndarray, Any]],
    *,
    scale: float = 1.0,
    time: int = 11,
    dim: int = 8,
    tolerance: float = 1e-5,
) -> None:
    """Requires a mixer's prefill to be a loop over `step`, also for gradients of all parameters.

    Its three rows have a state, several documents and padding. Parameters are moved from where they
    start, so that none is zero. An empty state is zero.

    Args:
      make: constructs the mixer from `dim` and `rngs`.
      step: (parameters by dotted name, inputs [B, D], state) -> (outputs [B, D], state); in numpy.
      scale: of the inputs.
      time: T.
      dim: D.
      tolerance: as a fraction of an array's largest entry.
    """
    mixer = jax.jit(lambda: make(dim, rngs=nnx.Rngs(0)))()
    names, leaves, structure = named_parameters(mixer)
    parameters = [leaf + 0.1 * normal(*leaf.shape) for leaf in leaves]
    empty = jax.eval_shape(lambda: mixer.init_state(3, time))
    before = jax.tree.map(lambda leaf: np.zeros(leaf.shape), empty)
    for x in scale * normal(5, 3, dim):
        before = type(empty)(*step(dict(zip(names, parameters, strict=True)), x, before)[1])
    state = jax.tree.leaves(before)
    starts = np.zeros((3, time), bool)
    starts[0, [0, 4, 5]] = True
    lengths = np.array([time, time - 4, 0])
    valid = np.arange(time) < lengths[:, None]
    count = len(parameters)

    def prefill(*leaves):
        given = structure.unflatten(leaves[:count])
        y, state = given.prefill(
            leaves[count], type(before)(*leaves[count + 1 :]), starts, jnp.asarray(lengths)
        )
        return jnp.where(valid[..., None], y, 0), tuple(jax.tree.leaves(state))

    def loop(*leaves):
        given, x = dict(zip(names, leaves[:count], strict=True)), leaves[count]
        state, ys = leaves[count + 1 :], []
        for t in range(time):
            entering = [_rows(starts[:, t] & valid[:, t], 0 * s, s) for s in state]
            y, after = step(given, x[:, t], type(before)(*entering))
            state = [_rows(valid[:, t], a, s) for a, s in zip(after, state, strict=True)]
            ys.append(y)
        return np.where(valid[..., None], np.stack(ys, 1), 0), tuple(state)

    assert_form(prefill, loop, [*parameters, scale * normal(3, time, dim), *state], tolerance)


def prefilled_and_stepped(mixer, x, cut, starts=None):
    """Returns the outputs for a prompt in two parts, and for the tokens behind it, step by step.

    Args:
      mixer: a mixer.
      x: its inputs [B, T, D].
      cut: tokens of each part, so that one program computes both.
      starts: whether documents begin at tokens [B, T]; those of the steps don't.
    """
    x, prefill = jnp.asarray(x, jnp.float32), jax.jit(type(mixer).prefill)
    starts = np.zeros(x.shape[:2], bool) if starts is None else starts
    ys, state = [], mixer.init_state(*x.shape[:2])
    for first in (0, cut):
        part = slice(first, first + cut)
        y, state = prefill(mixer, x[:, part], state, starts[:, part])
        ys.append(y)

    @jax.jit
    def steps(mixer, state, x):
        step = lambda state, x: mixer.step(x, state)[::-1]
        return jax.lax.scan(step, state, x.swapaxes(0, 1))[1].swapaxes(0, 1)

    return np.concatenate([*ys, steps(mixer, state, x[:, 2 * cut :])], axis=1)


def named_parameters(mixer):
    """The dotted names of a mixer's parameters, their values in float64, and its tree structure."""
    paths, structure = jax.tree_util.tree_flatten_with_path(mixer)
    names = [".".join(str(getattr(k, "key", getattr(k, "name", k))) for k in p) for p, _ in paths]
    leaves = [np.asarray(leaf, np.float64) for _, leaf in paths]
    return [name.removesuffix(".value") for name in names], leaves, structure


def _rows(rows: np.ndarray, then: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *(1,) * (then.ndim - 1)), then, otherwise)
