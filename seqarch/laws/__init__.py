"""The law of sequence mixers as functions: call `check` on a mixer of your own.

    laws.check(functools.partial(MyMixer, 16))         # raises LawBroken, which says in words what does not hold
    for clause in laws.clauses(functools.partial(MyMixer, 16)): ...        # one by one: scripts/check_mixer.py

Most clauses say that two functions of (mixer, x, state) are the same: in their outputs and final states, and in their
gradients with respect to parameters, inputs and the floating leaves of the initial state, under random cotangents.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.generate import fork, reset
from seqarch.laws.compare import LawBroken, require_close, require_finite, require_zero
from seqarch.laws.numerics import (
    bfloat16_is_close,
    bfloat16_steps_are_prefill,
    gradients_are_differences,
    long_steps_are_prefill,
)
from seqarch.mixers.base import SequenceMixer, select_rows
from seqarch.ops.numerics import valid_tokens
from seqarch.types import Array, PyTree, State

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
    as_given, make = make, with_small_pieces(make)
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
                require_close(says, run(expected, seed, *how), run(given, seed, *how))

        return Clause(name, says, test)

    def scaled(function: Callable, scale: float) -> Result:
        mixer, x, state, starts, lengths = example(0)
        lengths, starts = jnp.full_like(lengths, time), jnp.zeros_like(starts)
        return law[function](mixer, scale * x, state, starts, lengths, jax.random.key(0))

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
        Clause(
            "bfloat16_step", "steps in bfloat16 do not drift",
            lambda: bfloat16_steps_are_prefill(as_given, dim),
        ),
        Clause("long", "beyond a chunk or block, step is prefill", lambda: long_steps_are_prefill(as_given, dim)),
        Clause("axes", "every parameter names its axes", lambda: parameters_name_axes(make)),
        Clause(
            "used", "every parameter has a gradient",
            lambda: parameters_have_gradients([run(prefill, seed) for seed in range(seeds)]),
        ),
        Clause("differences", "gradients are finite differences", lambda: gradients_are_differences(*last()[:3])),
        Clause(
            "large", "inputs 30 times larger stay finite",
            lambda: large_inputs_are_finite(scaled(prefill, 30.0), scaled(steps, 30.0)),
        ),
        Clause(
            "reuse", "a state can be reused, forked, reordered and reset",
            lambda: states_can_be_reused(law, *last()),
        ),
    ]


def with_small_pieces(make: Callable[..., SequenceMixer]) -> Callable[..., SequenceMixer]:
    """Returns `make` with chunk and block at most 8, where it takes them, so that short sequences cross them."""
    sizes = {}
    for name in ("chunk", "block"):
        parameter = inspect.signature(make).parameters.get(name)
        if parameter is not None and isinstance(parameter.default, int):
            sizes[name] = min(8, parameter.default)
    return partial(make, **sizes)


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
    require_close("a call is prefill from an empty state", prefilled, run(lambda mixer, x: mixer(x, starts)))


def static_splits_are_whole(mixer: SequenceMixer, x: Array, state: State, starts: Array) -> None:
    """The same for splits that change the shapes: one token, and uneven."""
    prefill = jax.jit(lambda mixer, x, state, starts: mixer.prefill(x, state, starts))
    starts, T = starts.at[2:, 0].set(True), x.shape[1]  # a document may begin with the very first token
    whole = prefill(mixer, x, state, starts)
    for split in (1, T // 3):
        y_a, between = prefill(mixer, x[:, :split], state, starts[:, :split])
        y_b, after = prefill(mixer, x[:, split:], between, starts[:, split:])
        require_close(f"prefill of {split} tokens, then of {T - split}", whole, (jnp.concatenate([y_a, y_b], 1), after))


def causal_and_rowwise(mixer: SequenceMixer, x: Array) -> None:
    """No output depends on a later input, nor on another row: the derivatives are zero."""
    first = np.asarray(jax.jit(jax.jacrev(lambda x: mixer(x)[0].sum(-1)))(x[:2]))  # of row 0: [T, B, T, D]
    second = np.asarray(jax.jit(jax.grad(lambda x: (mixer(x)[1] ** 2).sum()))(x[:2]))  # of row 1: [B, T, D]
    later = np.triu(np.ones(first.shape[::2], bool), 1)
    require_zero("an output depends on a later input", first[:, 0][later])
    require_zero("an output depends on another row of the batch", first[:, 1:], second[0])
    run, half = jax.jit(lambda mixer, x: mixer(x)), x.shape[1] // 2
    moved = x.at[:, half:].set(3 - 2 * x[:, half:])
    expected, given = run(mixer, x[:2]), run(mixer, moved[:2])
    require_close("an output depends on a later input", expected[:, :half], given[:, :half])
    given = run(mixer, x[:2].at[1].set(3 - 2 * x[1]))
    require_close("an output depends on another row of the batch", expected[0], given[0])


def parameters_name_axes(make: Callable[..., SequenceMixer]) -> None:
    """Requires the metadata `axes` of each parameter, with a name or None for each dimension."""
    mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    for path, parameter in nnx.to_flat_state(nnx.state(mixer, nnx.Param)):
        axes, name = parameter.get_metadata().get("axes"), ".".join(map(str, path))
        if not _are_axes(axes) or len(axes) != parameter[...].ndim:
            raise LawBroken(f"{name} of shape {parameter[...].shape} has axes {axes}; name each")


def parameters_have_gradients(results: list[Result]) -> None:
    """Requires a gradient that is not identically zero for each parameter."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(results[0].gradients[0]):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        leaves = [dict(jax.tree_util.tree_leaves_with_path(r.gradients[0]))[path] for r in results]
        if not any(np.any(np.asarray(each)) for each in leaves):
            raise LawBroken(f"the gradient of {name} is zero in every entry")


def large_inputs_are_finite(prefilled: Result, stepped: Result) -> None:
    """Requires finite values and gradients, and values of step near those of prefill."""
    for result in (prefilled, stepped):
        require_finite("inputs 30 times larger", result)
    expected, given = ({"values": each.values} for each in (prefilled, stepped))
    require_close("inputs 30 times larger, step against prefill", expected, given, 1e-2)


def states_can_be_reused(law: dict, mixer: SequenceMixer, x: Array, state: State, starts: Array) -> None:
    """Requires rows of a state to go on alike when it is used twice, forked, reordered or reset."""
    B, T = x.shape[:2]
    none, full, key = jnp.zeros_like(starts), jnp.full(B, T), jax.random.key(0)
    rows = jnp.arange(B)[::-1].at[1].set(0)  # in another order, the first one twice
    empty, emptied = mixer.init_state(B, _capacity(T)), jnp.arange(B) % 2 == 0
    for function in (prefill, steps):
        go_on = lambda x, state: law[function](mixer, x, state, none, full, key).values  # noqa: B023
        once = go_on(x, state)
        require_close("a state used twice", once, go_on(x, state))
        require_close("a forked state", fork(once, rows), go_on(x[rows], fork(state, rows)))
        expected = select_rows(emptied, go_on(x, empty), once)
        require_close("a state reset in some rows", expected, go_on(x, reset(state, emptied, empty)))


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


def _shape(x: Any) -> tuple:
    return x.shape, x.dtype


def _are_axes(names: Any) -> bool:
    return isinstance(names, tuple) and all(name is None or isinstance(name, str) for name in names)


def _size(state: State) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))
