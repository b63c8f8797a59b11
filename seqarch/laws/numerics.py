"""The clauses about precision, range, long sequences and gradients."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.laws.compare import LawBroken, place, require_close, require_close_rms
from seqarch.mixers.base import SequenceMixer
from seqarch.types import Array, State

BFLOAT16_TOLERANCE = 0.05  # root mean square, of the float32 result's
DIFFERENCE_TOLERANCE = 0.02  # of the norm of the finite differences
SHORTEST_LONG = 64  # tokens that the clause on long sequences exceeds for every mixer


def bfloat16_is_close(make: Callable[..., SequenceMixer], dim: int, time: int = 2048) -> None:
    """Requires bfloat16 outputs and input gradients near float32 ones over many tokens."""

    @partial(jax.jit, static_argnums=1)
    def outputs(mixer: SequenceMixer, dtype, x: Array, weight: Array) -> tuple[Array, Array]:
        y, pullback = jax.vjp(lambda x: mixer(x.astype(dtype)).astype(jnp.float32), x)
        return y, pullback(weight)[0]

    keys = jax.random.split(jax.random.key(0))
    x, weight = (jax.random.normal(key, (4, time, dim)) for key in keys)
    dtypes = (jnp.float32, jnp.bfloat16)
    exact, rough = (outputs(make(dtype=t, rngs=nnx.Rngs(0)), t, x, weight) for t in dtypes)
    for what, a, b in zip(("output", "gradient"), exact, rough):
        error = float(jnp.sqrt(jnp.mean((a - b) ** 2) / jnp.mean(a**2)))
        if not error <= BFLOAT16_TOLERANCE:
            raise LawBroken(
                f"in bfloat16 over {time} tokens the {what} is off by {error:.3f} "
                "of its root mean square"
            )


def bfloat16_steps_are_prefill(
    make: Callable[..., SequenceMixer], dim: int, time: int = 2048
) -> None:
    """Requires bfloat16 steps over many tokens to end where a float32 prefill ends.

    A state that is rounded to bfloat16 at each token loses small updates, so it drifts.
    """
    x = jax.random.normal(jax.random.key(0), (2, time, dim))
    exact = _prefill(make(dtype=jnp.float32, rngs=nnx.Rngs(0)), x)
    rounded = x.astype(jnp.bfloat16)
    rough = scan_steps(make(dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), rounded)
    says = f"bfloat16 steps against float32 prefill over {time} tokens"
    require_close_rms(says, {"values": exact}, {"values": rough}, BFLOAT16_TOLERANCE)


def long_steps_are_prefill(make: Callable[..., SequenceMixer], dim: int) -> None:
    """Requires step and prefill to agree beyond the mixer's own chunk and block."""
    mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    time = longest_piece(mixer) + 6
    x = jax.random.normal(jax.random.key(0), (2, time, dim))
    says = f"a scan of step is prefill over {time} tokens"
    require_close(says, {"values": _prefill(mixer, x)}, {"values": scan_steps(mixer, x)})


def longest_piece(mixer: SequenceMixer) -> int:
    """Returns the largest chunk or block of the mixer and its parts, at least 64."""
    sizes = [SHORTEST_LONG]
    for _, module in nnx.iter_modules(mixer):
        for name in ("chunk", "block"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                sizes.append(size)
    return max(sizes)


@jax.jit
def _prefill(mixer: SequenceMixer, x: Array) -> tuple[Array, State]:
    return mixer.prefill(x, mixer.init_state(*x.shape[:2]))


@jax.jit
def scan_steps(mixer: SequenceMixer, x: Array) -> tuple[Array, State]:
    """Returns the outputs and the final state of one step a token from an empty state."""

    def body(state: State, x: Array) -> tuple[State, Array]:
        y, state = mixer.step(x, state)
        return state, y

    state, y = jax.lax.scan(body, mixer.init_state(*x.shape[:2]), x.swapaxes(0, 1))
    return y.swapaxes(0, 1), state


def gradients_are_differences(mixer: SequenceMixer, x: Array, state: State) -> None:
    """Requires each leaf's gradient to agree with central differences of prefill.

    Several random directions a leaf are compared as one vector, so that no single
    derivative close to zero decides. Steps are 1 per cent of the leaf's root mean square.
    """
    x, state = x[:4], jax.tree.map(lambda leaf: leaf[:4], state)
    leaves, structure = jax.tree.flatten((mixer, x, state))

    @jax.jit
    def outputs(leaves: list[Array]) -> list[Array]:
        mixer, x, state = structure.unflatten(leaves)
        return [y for y in jax.tree.leaves(mixer.prefill(x, state)) if _is_float(y)]

    values = outputs(leaves)
    keys = jax.random.split(jax.random.key(1), len(values))
    weights = [jax.random.normal(key, y.shape) for key, y in zip(keys, values)]
    which = [index for index, leaf in enumerate(leaves) if _is_float(leaf)]

    @jax.jit
    def gradients(floats: list[Array]) -> list[Array]:
        def loss(floats: list[Array]) -> Array:
            at = dict(zip(which, floats))
            return sum(
                (w * y).sum()
                for w, y in zip(weights, outputs([at.get(i, a) for i, a in enumerate(leaves)]))
            )

        return jax.grad(loss)(floats)

    paths = [p for p, _ in jax.tree_util.tree_leaves_with_path({"gradients": (mixer, x, state)})]
    weights64 = [np.asarray(w, np.float64) for w in weights]
    for index, gradient in zip(which, gradients([leaves[i] for i in which])):
        _compare_directions(paths[index], outputs, leaves, index, gradient, weights64)


def _compare_directions(path, outputs, leaves, index, gradient, weights, count: int = 6) -> None:
    """Compares one leaf's gradient with central differences in `count` random directions."""
    leaf = np.asarray(leaves[index])
    step = 1e-2 * max(float(np.sqrt(np.mean(leaf**2))), 0.1)
    random = np.random.default_rng(index)
    differences, products = [], []
    for _ in range(count):
        direction = random.standard_normal(leaf.shape).astype(np.float32)
        ends = []
        for sign in (1, -1):
            moved = [*leaves]
            moved[index] = jnp.asarray(leaf + sign * np.float32(step) * direction)
            ends.append([np.asarray(y, np.float64) for y in outputs(moved)])
        change = sum((w * (a - b)).sum() for w, a, b in zip(weights, *ends))
        differences.append(change / (2 * step))
        products.append((np.asarray(gradient, np.float64) * direction).sum())
    error = np.linalg.norm(np.subtract(differences, products))
    size = np.linalg.norm(differences)
    if not error <= DIFFERENCE_TOLERANCE * size + 1e-3:
        raise LawBroken(f"{place(path)} differs from finite differences by {error / size:.2g}")


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
