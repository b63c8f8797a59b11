"""The kernels for a decay per key channel, interpreted, against the recurrence step by step.

And they compile for every TPU, where its compiler is installed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.kernels.call import interpreted
from tests.grids import slow_but
from tests.ops.absent_tpus import TARGETS, check_gradient, compile_apart
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


def exact(q, k, v, g, S) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs and the final state in float64."""
    outputs, (q, k, v, a, S) = [], (x.astype(np.float64) for x in (q, k, v, np.exp(g), S))
    for t in range(q.shape[1]):
        S = a[:, t, :, :, None] * S + np.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        outputs.append(np.einsum("bhk,bhkv->bhv", q[:, t], S))
    return np.stack(outputs, 1), S


def test_extreme_decays_are_as_exact_as_mild_ones():
    """Log-decays from -20 to -1e-3 and 0 mixed in a row of 513 tokens."""
    shape = 1, 513, 2, 64
    given = [unit(normal(*shape)), unit(normal(*shape)), normal(*shape)]
    given += [log_decays(1e-3, 20.0, *shape), normal(1, 2, 64, 64)]
    with interpreted():
        found = jax.jit(partial(ops.linear_attention, method="pallas"))(*given)
    for x, y in zip(found, exact(*given)):
        assert np.abs(x - y).max() <= 3e-6 * np.abs(y).max()


# Heads, channels of keys and values, the dtype, whether there are packed documents, and how far
# results may be off, in parts of the largest number.
CASES = {
    "single": (2, 64, 64, jnp.float32, True, 2e-6),
    "half": (2, 64, 128, jnp.bfloat16, True, 1e-2),
    "padded to 128 and 256": (1, 96, 192, jnp.float32, False, 2e-6),
    "several units": (4, 64, 64, jnp.bfloat16, False, 1e-2),
}


@pytest.mark.parametrize("case", slow_but({"single"}, CASES))
def test_kernels_are_the_recurrence(case):
    """Log-decays reach from -30 to -1e-6."""
    H, K, V, dtype, packed, tolerance = CASES[case]
    keys, values = (1, TIME, H, K), (1, TIME, H, V)
    given = [(K**-0.5 * normal(*keys)), normal(*keys), normal(*values)]
    given = [jnp.asarray(x, dtype) for x in given]
    given += [log_decays(1e-6, 30.0, *keys), normal(1, H, K, V)]
    starts = np.isin(np.arange(TIME), [5, 6, 70])[None] if packed else None
    cotangents = [normal(*values).astype(dtype).astype(jnp.float32), normal(1, H, K, V)]

    def results(method: str, given: list) -> list:
        attend = partial(ops.linear_attention, starts=starts, method=method)
        return outputs_and_gradients(attend, given, cotangents)

    expected = results("sequential", [x.astype(jnp.float32) for x in given])
    with interpreted():
        found = results("pallas", given)
    for name, x, y in zip(["o", "S", "dq", "dk", "dv", "dg", "dS"], found, expected, strict=True):
        error = jnp.abs(x.astype(jnp.float32) - y).max()
        assert error <= tolerance * max(1e-3, jnp.abs(y).max()), (name, error)


def compile_for(target: str, dtype, H: int, K: int, V: int) -> None:
    def attend(q, k, v, g, S):
        return ops.linear_attention(q, k, v, g, S, method="pallas")

    def arguments(B, shape):
        tokens = [shape(B, 200, H, size, dtype=dtype) for size in (K, K, V)]
        return *tokens, shape(B, 200, H, K), shape(B, H, K, V)

    check_gradient(target, attend, arguments)


def compile_for_tpus() -> None:
    for target in TARGETS:
        compile_for(target, jnp.bfloat16, 2, 64, 64)
        compile_for(target, jnp.float32, 2, 128, 64)
    # The memory of a v4 is the smallest: as many heads as a turn of the grid takes.
    compile_for("tpu-v4", jnp.bfloat16, 16, 64, 64)
    compile_for("tpu-v4", jnp.float32, 8, 64, 128)


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    compile_apart(__name__)
