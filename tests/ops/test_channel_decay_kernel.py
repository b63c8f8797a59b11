"""The kernels for a decay per key channel, interpreted, against the recurrence step by step.

And they compile for every TPU, where its compiler is installed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.kernels.call import interpreted
from tests.grids import slow_but
from tests.ops.absent_tpus import TARGETS, assert_compiles_apart, check_gradient
from tests.oracle import outputs_and_gradients

RNG = np.random.default_rng(0)
TIME = 130  # two blocks, the second one padded


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_decays(least: float, most: float, *shape: int) -> np.ndarray:
    """Returns log-decays between two sizes, of which some are 0."""
    g = -np.exp(RNG.uniform(np.log(least), np.log(most), shape))
    return np.where(RNG.random(shape) < 0.05, 0.0, g).astype(np.float32)


def arguments(H: int, K: int, V: int, dtypes, g: np.ndarray, erases: str) -> list:
    """Returns q, k, v, p, r, g and the first state for TIME tokens; half of a key is common to all.

    Args:
      H, K, V: heads, and channels of their keys and values.
      dtypes: of keys and values.
      g: log-decays.
      erases: "" for nothing, "r" at the keys that write, "pr" at others.
    """
    shape, common = g.shape, unit(normal(1, 1, 1, K))
    q, keys, written = (unit(unit(normal(*shape)) + common) for _ in range(3))
    beta = 1 / (1 + np.exp(-normal(*shape[:3], 1)))
    k, p, r = beta * keys, None, np.exp(g) * keys
    if erases == "pr":
        k, p, r = written, beta * keys, keys
    r = r if erases else None
    q, k, p, r = (None if x is None else jnp.asarray(x, dtypes[0]) for x in (q, k, p, r))
    v = jnp.asarray(normal(*shape[:3], V), dtypes[1])
    return [q, k, v, p, r, g, normal(shape[0], H, K, V)]


def attend(method: str, starts: np.ndarray | None):
    def of(q, k, v, p, r, g, S):
        return ops.linear_attention(q, k, v, g, S, p=p, r=r, starts=starts, method=method)

    return of


def exact(q, k, v, p, r, g, S) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs and the final state in float64."""
    p, r = k if p is None else p, 0 * k if r is None else r
    outputs, (q, k, v, p, r, g, S) = [], (np.asarray(x, np.float64) for x in (q, k, v, p, r, g, S))
    for t in range(q.shape[1]):
        u = np.einsum("bhk,bhkv->bhv", r[:, t], S)
        S = np.exp(g[:, t, :, :, None]) * S + np.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        S = S - np.einsum("bhk,bhv->bhkv", p[:, t], u)
        outputs.append(np.einsum("bhk,bhkv->bhv", q[:, t], S))
    return np.stack(outputs, 1), S


SINGLE, HALF, MIXED = (jnp.float32,) * 2, (jnp.bfloat16,) * 2, (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize("erases", ["", "r"])
def test_extreme_decays_are_as_exact_as_mild_ones(erases):
    """Log-decays from -20 to -1e-3 and 0 mixed in a row of 513 tokens."""
    given = arguments(2, 64, 64, SINGLE, log_decays(1e-3, 20.0, 1, 513, 2, 64), erases)
    with interpreted():
        found = jax.jit(attend("pallas", None))(*given)
    for x, y in zip(found, exact(*given)):
        assert np.abs(x - y).max() <= 3e-6 * np.abs(y).max()


# Heads, channels of keys and values, dtypes, whether there are packed documents, what is erased,
# and how far results may be off, in parts of the largest number.
CASES = {
    "single": (2, 64, 64, SINGLE, True, "", 2e-6),
    "half": (2, 64, 128, HALF, True, "", 1e-2),
    "padded to 128 and 256": (1, 96, 192, SINGLE, False, "", 2e-6),
    "several units": (4, 64, 64, HALF, False, "", 1e-2),
    "erasing": (2, 64, 64, SINGLE, True, "r", 2e-6),
    "erasing elsewhere": (2, 64, 64, SINGLE, True, "pr", 2e-6),
    "erasing, mixed": (2, 64, 64, MIXED, True, "r", 5e-3),
    "erasing, half": (2, 64, 64, HALF, False, "pr", 5e-3),
    "erasing, padded": (1, 96, 192, SINGLE, False, "pr", 2e-6),
}


@pytest.mark.parametrize("case", slow_but({"single", "erasing elsewhere"}, CASES))
def test_kernels_are_the_recurrence(case):
    """Log-decays reach from -30 to -1e-6."""
    H, K, V, dtypes, packed, erases, tolerance = CASES[case]
    given = arguments(H, K, V, dtypes, log_decays(1e-6, 30.0, 1, TIME, H, K), erases)
    starts = np.isin(np.arange(TIME), [5, 6, 70])[None] if packed else None
    cotangents = [normal(1, TIME, H, V), normal(1, H, K, V)]
    cotangents[0] = cotangents[0].astype(dtypes[1]).astype(jnp.float32)
    single = [None if x is None else x.astype(jnp.float32) for x in given]
    expected = outputs_and_gradients(attend("sequential", starts), single, cotangents)
    with interpreted():
        found = outputs_and_gradients(attend("pallas", starts), given, cotangents)
    names = ["o", "S", "dq", "dk", "dv", *(f"d{name}" for name in erases), "dg", "dS"]
    for name, x, y in zip(names, found, expected, strict=True):
        error = jnp.abs(x.astype(jnp.float32) - y).max()
        assert error <= tolerance * max(1e-3, jnp.abs(y).max()), (name, error)


def compile_for(target: str, dtype, H: int, K: int, V: int, erases: str = "") -> None:
    def of(q, k, v, g, S, *more):
        given = dict(zip(erases, more))
        return attend("pallas", None)(q, k, v, given.get("p"), given.get("r"), g, S)

    def arguments(B, shape):
        tokens = [shape(B, 200, H, size, dtype=dtype) for size in (K, K, V)]
        more = [shape(B, 200, H, K, dtype=dtype) for _ in erases]
        return *tokens, shape(B, 200, H, K), shape(B, H, K, V), *more

    check_gradient(target, of, arguments)


def compile_for_tpus() -> None:
    for target in TARGETS:
        compile_for(target, jnp.bfloat16, 2, 64, 64)
        compile_for(target, jnp.float32, 1, 128, 128, "r")
    # The memory of a v4 is the smallest: as many heads as a turn of the grid takes.
    compile_for("tpu-v4", jnp.bfloat16, 16, 64, 64)
    compile_for("tpu-v4", jnp.float32, 8, 64, 128)
    compile_for("tpu-v4", jnp.bfloat16, 8, 64, 64, "pr")
    compile_for("tpu-v4", jnp.float32, 4, 64, 128, "pr")


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    assert_compiles_apart(__name__)
