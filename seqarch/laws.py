"""The law of sequence mixers as functions: call `check` on a mixer of your own.

    laws.check(functools.partial(MyMixer, 16))         # raises LawBroken, which says in words what does not hold
    for clause in laws.clauses(functools.partial(MyMixer, 16)): ...        # one by one: scripts/check_mixer.py

Most clauses say that two functions of (mixer, x, state) are the same: in their outputs and final states, and in their
gradients with respect to parameters, inputs and the floating leaves of the initial state, under random cotangents.
"""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.mixers.base import SequenceMixer, select_rows
from seqarch.ops.numerics import valid_tokens
from seqarch.types import Array, PyTree, State

TOLERANCE = 1e-4  # of the largest entry of what is compared, in float32
BFLOAT16_TOLERANCE = 0.05  # root mean square, of the float32 output's


class LawBroken(AssertionError):
    """A clause of the law that does not hold, and by how much."""


class Clause(NamedTuple):
    """says: what must hold; test: raises LawBroken where it does not."""

    name: str
    says: str
    test: Callable[[], None]


class Result(NamedTuple):
    """(outputs, state), and the gradients with respect to (mixer, x, state)."""

    values: PyTree
    gradients: PyTree


def check(make: Callable[..., SequenceMixer], *, dim: int = 16, time: int = 21, seeds: int = 2) -> None:
    """Raises LawBroken unless `make(dtype=..., rngs=...)` gives mixers of width `dim` that obey every clause.

    time: tokens of the sequences; let it be longer than the mixer's chunk, and no multiple of it
    """
    for clause in clauses(make, dim=dim, time=time, seeds=seeds):
        clause.test()


def clauses(make: Callable[..., SequenceMixer], *, dim: int = 16, time: int = 21, seeds: int = 2) -> list[Clause]:
    """The law's clauses for the mixers of `make`; nothing is computed before a clause's `test` is called."""
    law = {function: jax.jit(partial(_values_and_gradients, function)) for function in (steps, prefill, masked, halves)}

    @cache
    def example(seed: int) -> tuple:
        mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(seed))
        return mixer, *_example(mixer, dim, time, seed)

    @cache
    def run(function: Callable, seed: int, documents: bool = False, padded: bool = False) -> PyTree:
        mixer, x, state, starts, lengths = example(seed)
        starts, lengths = starts if documents else jnp.zeros_like(starts), lengths if padded else jnp.full_like(lengths, time)
        return law[function](mixer, x, state, starts, lengths, jax.random.key(seed))

    def same(name: str, says: str, expected: Callable, given: Callable, *how: bool) -> Clause:
        def test() -> None:
            for seed in range(seeds):
                _close(says, run(expected, seed, *how), run(given, seed, *how))

        return Clause(name, says, test)

    last = lambda: example(seeds - 1)[:4]
    return [
        Clause("carry", "the state is a carry: structure, shapes and dtypes stay", lambda: state_is_a_carry(make, dim, time)),
        Clause("causal", "no output depends on a later input or another row", lambda: causal_and_rowwise(*last()[:2])),
        same("step", "a scan of step is prefill", prefill, steps),
        same("halves", "prefill of a, then of b, is prefill of ab", prefill, halves),
        same("lengths", "padding is nothing", steps, masked, False, True),
        same("starts", "packed documents are separate", steps, masked, True, True),
        Clause("call", "a call is prefill from an empty state", lambda: call_is_prefill(*last())),
        Clause("splits", "prefill may be cut anywhere", lambda: static_splits_are_whole(*last())),
        Clause("bfloat16", "bfloat16 is close to float32", lambda: bfloat16_is_close(make, dim)),
    ]


def steps(mixer, x: Array, state: State, starts: Array, lengths: Array) -> tuple[Array, State]:
    """The definition: a scan of `step`, the state emptied before each start, and held beyond `lengths`."""
    empty = mixer.init_state(x.shape[0], _capacity(x.shape[1]))

    def body(state: State, inputs) -> tuple[State, Array]:
        x, starts, valid = inputs
        before = select_rows(starts & valid, empty, state)
        y, after = mixer.step(x, before)
        return select_rows(valid, after, state), jnp.where(valid[:, None], y, 0)

    by_time = [jnp.moveaxis(a, 1, 0) for a in (x, starts, valid_tokens(lengths, *x.shape[:2]))]
    state, y = jax.lax.scan(body, state, by_time)
    return jnp.moveaxis(y, 0, 1), state


def prefill(mixer, x: Array, state: State, starts: Array, lengths: Array) -> tuple[Array, State]:
    return mixer.prefill(x, state)


def masked(mixer, x: Array, state: State, starts: Array, lengths: Array) -> tuple[Array, State]:
    y, state = mixer.prefill(x, state, starts, lengths)
    return jnp.where(valid_tokens(lengths, *x.shape[:2])[..., None], y, 0), state


def halves(mixer, x: Array, state: State, starts: Array, lengths: Array) -> tuple[Array, State]:
    """Prefill of the first b tokens, then of the rest, in row b: every split at once."""
    B, T = x.shape[:2]
    first = jnp.arange(B)
    y_a, state = mixer.prefill(x, state, None, first)
    rest = jnp.minimum(first[:, None] + jnp.arange(T)[None], T - 1)
    y_b, state = mixer.prefill(jnp.take_along_axis(x, rest[..., None], axis=1), state, None, T - first)
    back = jnp.maximum(jnp.arange(T)[None] - first[:, None], 0)
    y_b = jnp.take_along_axis(y_b, back[..., None], axis=1)
    return jnp.where(valid_tokens(first, B, T)[..., None], y_a, y_b), state


def call_is_prefill(mixer: SequenceMixer, x: Array, state: State, starts: Array) -> None:
    """`__call__` is `prefill` from an empty state, in values and gradients."""
    empty = mixer.init_state(len(x), _capacity(x.shape[1]))
    run = lambda function: jax.jit(jax.value_and_grad(lambda mixer, x: (function(mixer, x) ** 2).sum(), (0, 1)))(mixer, x)
    prefilled = run(lambda mixer, x: mixer.prefill(x, empty, starts)[0])
    _close("a call is prefill from an empty state", prefilled, run(lambda mixer, x: mixer(x, starts)))


def static_splits_are_whole(mixer: SequenceMixer, x: Array, state: State, starts: Array) -> None:
    """The same for splits that change the shapes: one token, and uneven."""
    prefill = jax.jit(lambda mixer, x, state, starts: mixer.prefill(x, state, starts))
    starts, T = starts.at[2:, 0].set(True), x.shape[1]  # a document may begin with the very first token
    whole = prefill(mixer, x, state, starts)
    for split in (1, T // 3):
        y_a, between = prefill(mixer, x[:, :split], state, starts[:, :split])
        y_b, after = prefill(mixer, x[:, split:], between, starts[:, split:])
        _close(f"prefill of {split} tokens, then of {T - split}", whole, (jnp.concatenate([y_a, y_b], 1), after))


def causal_and_rowwise(mixer: SequenceMixer, x: Array) -> None:
    """No output depends on a later input, nor on another row: the derivatives are zero."""
    first = np.asarray(jax.jit(jax.jacrev(lambda x: mixer(x)[0].sum(-1)))(x[:2]))  # of row 0: [T, B, T, D]
    second = np.asarray(jax.jit(jax.grad(lambda x: (mixer(x)[1] ** 2).sum()))(x[:2]))  # of row 1: [B, T, D]
    later = np.triu(np.ones(first.shape[::2], bool), 1)
    _zero("an output depends on a later input", first[:, 0][later])
    _zero("an output depends on another row of the batch", first[:, 1:], second[0])


def state_is_a_carry(make: Callable[..., SequenceMixer], dim: int, time: int) -> None:
    """Prefill and step keep the state's structure, shapes and dtypes; its size grows with max_len only where it says so."""
    B, T = 2, time
    for max_len, dtype in itertools.product((T, 8 * T), (jnp.float32, jnp.bfloat16)):
        mixer = make(dtype=dtype, rngs=nnx.Rngs(0))
        state = jax.eval_shape(lambda: mixer.init_state(B, max_len))
        for name, shape in (("prefill", (B, T, dim)), ("step", (B, dim))):
            inputs = jax.ShapeDtypeStruct(shape, dtype)
            y, after = jax.eval_shape(lambda inputs, state: getattr(mixer, name)(inputs, state), inputs, state)
            if jax.tree.map(_shape, after) != jax.tree.map(_shape, state):
                raise LawBroken(f"{name} changes the state from {state} to {after}")
            if _shape(y) != _shape(inputs):
                raise LawBroken(f"{name} takes {_shape(inputs)} and returns {_shape(y)}")
    named = jax.tree.leaves(mixer.state_axes, is_leaf=_are_axes)
    if [len(axes) for axes in named] != [leaf.ndim for leaf in jax.tree.leaves(state)]:
        raise LawBroken(f"state_axes is {mixer.state_axes}, yet the state is {state}; name the axes of every array")
    sizes = [_size(jax.eval_shape(lambda: mixer.init_state(B, max_len))) for max_len in (1 << 12, 1 << 20)]
    if mixer.constant_state != (sizes[0] == sizes[1]):
        raise LawBroken(f"constant_state is {mixer.constant_state}, yet max_len 4096 and 1048576 take {sizes} elements")


def bfloat16_is_close(make: Callable[..., SequenceMixer], dim: int, time: int = 2048) -> None:
    """In bfloat16 over many tokens: finite, and near the same mixer in float32, in outputs and in the inputs' gradient."""

    @partial(jax.jit, static_argnums=1)
    def outputs(mixer: SequenceMixer, dtype, x: Array, weight: Array) -> tuple[Array, Array]:
        run = lambda x: mixer(x.astype(dtype)).astype(jnp.float32)
        y, pullback = jax.vjp(run, x)
        return y, pullback(weight)[0]

    x, weight = (jax.random.normal(key, (4, time, dim)) for key in jax.random.split(jax.random.key(0)))
    exact, rough = (outputs(make(dtype=t, rngs=nnx.Rngs(0)), t, x, weight) for t in (jnp.float32, jnp.bfloat16))
    for what, a, b in zip(("output", "gradient"), exact, rough):
        error = float(jnp.sqrt(jnp.mean((a - b) ** 2) / jnp.mean(a**2)))
        if not error <= BFLOAT16_TOLERANCE:
            raise LawBroken(f"in bfloat16 over {time} tokens the {what} is off by {error:.3f} of its root mean square")


def _example(mixer: SequenceMixer, dim: int, time: int, seed: int) -> tuple[Array, State, Array, Array]:
    """Inputs of time + 1 rows, a state in use (after documents of different lengths), starts and lengths."""
    B, T = time + 1, time
    keys = jax.random.split(jax.random.key(seed), 5)
    before, x = (jax.random.normal(key, (B, T, dim)) for key in keys[:2])
    past, lengths = (jax.random.randint(key, (B,), 0, T + 1) for key in keys[2:4])
    prefill = jax.jit(lambda mixer, x, state: mixer.prefill(x, state, None, past)[1])
    state = prefill(mixer, before, mixer.init_state(B, _capacity(T)))
    starts = jax.random.bernoulli(keys[4], 0.15, (B, T))
    starts = starts.at[0].set(False).at[1, jnp.array([0, T // 2, T // 2 + 1])].set(True)
    return x, state, starts, lengths.at[:3].set(jnp.array([T - 2, T, 0]))


def _capacity(time: int) -> int:
    """Tokens that the examples' states must hold: those before and those to come."""
    return 2 * time


def _values_and_gradients(function: Callable, mixer, x: Array, state: State, starts, lengths, key: Array) -> PyTree:
    """Outputs, and the gradients with respect to mixer, x and state under random cotangents."""
    arguments, structure = jax.tree.flatten((mixer, x, state))
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in arguments]

    def of_floats(floats: list[Array]) -> tuple[list[Array], PyTree]:
        floats = iter(floats)
        leaves = [next(floats) if yes else leaf for yes, leaf in zip(floating, arguments)]
        values = function(*structure.unflatten(leaves), starts, lengths)
        return [leaf for leaf in jax.tree.leaves(values) if jnp.issubdtype(leaf.dtype, jnp.floating)], values

    floats = [leaf for yes, leaf in zip(floating, arguments) if yes]
    outputs, pullback, values = jax.vjp(of_floats, floats, has_aux=True)
    keys = jax.random.split(key, len(outputs))
    (gradients,) = pullback([jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, outputs)])
    gradients = iter(gradients)
    gradients = structure.unflatten([next(gradients) if yes else jnp.zeros(()) for yes in floating])
    return Result(values, gradients)


def _zero(otherwise: str, *derivatives: np.ndarray) -> None:
    if not all(np.abs(each).max() <= 0 for each in derivatives):  # also where one is NaN
        raise LawBroken(otherwise)


def _close(clause: str, expected: PyTree, given: PyTree) -> None:
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(given), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-3)
        if not error <= TOLERANCE:
            raise LawBroken(f"{clause}: {_place(path)} differs by {error:.2g} of its size")


def _place(path: tuple) -> str:
    """Where a leaf is in the result of `_values_and_gradients`, or of another function."""
    place = jax.tree_util.keystr(path, simple=True, separator=".")
    return _PLACES.get(".".join(place.split(".")[:2]), "") + place


_PLACES = {
    "values.0": "the output, ",
    "values.1": "the final state, ",
    "gradients.0": "the gradient of the parameters, ",
    "gradients.1": "the gradient of the inputs, ",
    "gradients.2": "the gradient of the initial state, ",
}


def _shape(x: Any) -> tuple:
    return x.shape, x.dtype


def _are_axes(names: Any) -> bool:
    return isinstance(names, tuple) and all(name is None or isinstance(name, str) for name in names)


def _size(state: State) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))
