"""The kernels of the delta rule, interpreted, against the step-by-step form in float32.

And they compile for every TPU, where its compiler is installed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.kernels.call import interpreted, say_once
from tests.grids import slow_but
from tests.ops.absent_tpus import TARGETS, assert_compiles_apart, check_gradient
from tests.oracle import assert_same_program, outputs_and_gradients

RNG = np.random.default_rng(0)
TIME = 130  # two blocks, the second one padded


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def results(method: str, given: list, starts, cotangents: list) -> list:
    """Returns the outputs, the final states and the gradients of all of `given`."""

    def erase(q, k, v, r, g, S):
        return ops.linear_attention(q, k, v, g, S, r=r, starts=starts, method=method)

    return outputs_and_gradients(erase, given, cotangents)


def arguments(H: int, K: int, V: int, dtypes, decays: bool, strongest: float) -> list:
    """Returns q, k, v, r, log-decays that reach from -30 to -1e-6 or None, and the first state.

    Half of each key is common to all, and eigenvalues of transitions reach to 1 - `strongest`.
    """
    common = unit(normal(1, 1, 1, K))
    q, keys = (unit(unit(normal(1, TIME, H, K)) + common) for _ in range(2))
    b = strongest / (1 + np.exp(-normal(1, TIME, H, 1)))
    g, r = None, keys
    if decays:
        g = -np.exp(RNG.uniform(np.log(1e-6), np.log(30), (1, TIME, H))).astype(np.float32)
        r = np.exp(g)[..., None] * keys
    of_keys, of_values = dtypes
    tokens = [x.astype(of_keys) for x in (q, b * keys)]
    return [
        *tokens,
        normal(1, TIME, H, V).astype(of_values),
        r.astype(of_keys),
        g,
        normal(1, H, K, V),
    ]


SINGLE, HALF, MIXED = (jnp.float32,) * 2, (jnp.bfloat16,) * 2, (jnp.float32, jnp.bfloat16)


# Heads, channels of keys and values, dtypes, whether there are decays and packed documents, the
# strongest erasure, and how far results may be off, in parts of the largest number.
CASES = {
    "single": (4, 64, 64, SINGLE, True, True, 1.0, 2e-6),
    "half": (2, 64, 64, HALF, True, True, 1.0, 5e-3),
    "without decays": (2, 64, 64, SINGLE, False, False, 2.0, 5e-6),
    "mixed": (2, 64, 64, MIXED, False, True, 1.0, 5e-3),
    "one wide head": (1, 128, 128, SINGLE, True, True, 1.0, 2e-6),
    "wide values": (2, 64, 128, HALF, True, False, 2.0, 5e-3),
    "padded to 128 and 256": (1, 96, 192, SINGLE, True, False, 1.0, 2e-6),
}


@pytest.mark.parametrize("case", slow_but({"half"}, CASES))
def test_kernels_are_the_recurrence(case):
    H, K, V, dtypes, decays, packed, strongest, tolerance = CASES[case]
    starts = None
    if packed:
        starts = np.isin(np.arange(TIME), [5, 6, 70])[None]
    given = arguments(H, K, V, dtypes, decays, strongest)
    cotangents = [normal(1, TIME, H, V), normal(1, H, K, V)]
    exact = [None if x is None else x.astype(jnp.float32) for x in given]
    cotangents[0] = cotangents[0].astype(dtypes[1]).astype(jnp.float32)
    expected = results("sequential", exact, starts, cotangents)
    with interpreted():
        found = results("pallas", given, starts, cotangents)
    names = ["o", "S", "dq", "dk", "dv", "dr", *["dg"] * decays, "dS"]
    for name, x, y in zip(names, found, expected, strict=True):
        error = jnp.abs(x.astype(jnp.float32) - y).max()
        assert error <= tolerance * max(1e-3, jnp.abs(y).max()), (name, error)


@pytest.mark.slow
def test_in_bfloat16_they_are_as_exact_as_the_form_of_other_devices():
    """Of all but the final state, which has 16 bits."""
    q, k, v, r, _, S = arguments(2, 64, 64, HALF, False, 2.0)
    given, cotangents = [q, k, v, r, None, 0 * S], [v.astype(jnp.float32), 0 * S]
    exact = [None if x is None else x.astype(jnp.float32) for x in given]
    expected = results("sequential", exact, None, cotangents)
    other = results("chunked", given, None, cotangents)
    with interpreted():
        found = results("pallas", given, None, cotangents)

    def error(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y)

    names = ["o", "S", "dq", "dk", "dv", "dr", "dS"]
    for name, x, y, z in zip(names, found, other, expected, strict=True):
        assert error(x, z) <= max(1.01 * error(y, z), 1e-4), name


def test_what_they_lack_is_computed_otherwise_and_shapes_are_said_once(capsys):
    say_once.cache_clear()
    q, v = normal(1, 9, 3, 64), normal(1, 9, 3, 64)
    k = 0.1 * q
    forms = [partial(ops.linear_attention, r=k, method=method) for method in ("pallas", "parallel")]
    for _ in range(2):
        assert_same_program(*forms, q, k, v)
    assert capsys.readouterr().err == (
        "linear_attention: method=parallel in place of pallas, as 3 heads with 64 channels of keys "
        "and 64 of values have no tiles\n"
    )
    g = -np.abs(normal(1, 9, 3, 64))
    head = g[..., 0]
    for more in (dict(p=k), dict(log_decay=g), dict(log_decay=head, negative=head < -1)):
        assert_same_program(*(partial(form, **more) for form in forms), q, k, v)
    assert capsys.readouterr().err == ""


def compile_for(target: str, dtype, H: int, K: int, V: int) -> None:
    def erase(q, k, v, r, g, S):
        return ops.linear_attention(q, k, v, g, S, r=r, method="pallas")

    def arguments(B, shape):
        tokens = [shape(B, 200, H, size, dtype=dtype) for size in (K, K, V, K)]
        return *tokens, shape(B, 200, H), shape(B, H, K, V)

    check_gradient(target, erase, arguments)


def compile_for_tpus() -> None:
    for target in TARGETS:
        compile_for(target, jnp.bfloat16, 2, 64, 64)
        compile_for(target, jnp.float32, 2, 128, 64)
    # The memory of a v4 is the smallest: as many heads as a turn of the grid takes.
    compile_for("tpu-v4", jnp.bfloat16, 16, 64, 64)
    compile_for("tpu-v4", jnp.float32, 8, 64, 128)


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    assert_compiles_apart(__name__)
