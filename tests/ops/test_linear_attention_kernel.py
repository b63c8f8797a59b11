"""The kernels of linear attention, interpreted, against the step-by-step form in float32.

And they compile for every TPU, where its compiler is installed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.kernels.call import interpreted, say_once
from seqarch.ops.linear_attention import FORMS
from tests.grids import slow
from tests.ops.absent_gpus import compile_gradient
from tests.ops.absent_tpus import TARGETS, assert_compiles_apart, check_gradient
from tests.oracle import assert_same_program, outputs_and_gradients

RNG = np.random.default_rng(0)
TIME = 130  # two chunks, the second one padded


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def results(method: str, given: list, starts, cotangents: list, sums: bool) -> list:
    """Returns the outputs, the final states and the gradients of all of `given`."""

    def attend(q, k, v, g, S, z):
        if sums:
            return ops.linear_attention_and_sums(q, k, v, g, S, z, starts=starts, method=method)
        return ops.linear_attention(q, k, v, g, S, starts=starts, method=method)

    return outputs_and_gradients(attend, given, cotangents)


@pytest.mark.parametrize(
    "method, H, K, V, dtype, decays, packed, sums, tolerance",
    [
        slow("pallas", 4, 64, 64, jnp.float32, True, True, False, 2e-6),
        ("pallas", 2, 64, 64, jnp.bfloat16, True, True, True, 1e-2),
        slow("pallas", 2, 64, 64, jnp.float32, False, False, True, 2e-6),
        slow("pallas", 1, 128, 128, jnp.float32, True, True, True, 2e-6),
        slow("pallas", 2, 128, 64, jnp.bfloat16, True, False, False, 1e-2),
        slow("pallas", 2, 64, 128, jnp.float32, False, True, False, 2e-6),
        slow("triton", 2, 24, 15, jnp.float32, True, True, True, 2e-6),
        ("triton", 1, 16, 64, jnp.bfloat16, False, True, False, 1e-2),
    ],
)
def test_kernels_are_the_recurrence(method, H, K, V, dtype, decays, packed, sums, tolerance):
    """Errors are relative to the largest number; log-decays reach from -30 to -1e-6."""
    q, k, v = (
        x.astype(dtype)
        for x in (normal(1, TIME, H, K), normal(1, TIME, H, K), normal(1, TIME, H, V))
    )
    g = None
    if decays:
        g = -jnp.exp(jnp.asarray(RNG.uniform(np.log(1e-6), np.log(30), (1, TIME, H)), jnp.float32))
    starts = None
    if packed:
        starts = jnp.zeros((1, TIME), bool).at[0, jnp.array([5, 6, 70])].set(True)
    given = [q * K**-0.5, k, v, g, normal(1, H, K, V), normal(1, H, K)]
    shapes = [(1, TIME, H, V), *([(1, TIME, H)] * sums), (1, H, K, V), *([(1, H, K)] * sums)]
    cotangents = [normal(*shape) for shape in shapes]
    exact = [None if x is None else x.astype(jnp.float32) for x in given]
    expected = results("sequential", exact, starts, cotangents, sums)
    with interpreted():
        found = results(method, given, starts, cotangents, sums)
    for name, (x, y) in enumerate(zip(found, expected, strict=True)):
        error = jnp.abs(x.astype(jnp.float32) - y).max()
        assert error <= tolerance * max(1e-3, jnp.abs(y).max()), (name, error)


def test_kernels_for_a_gpu_compile_for_an_h100():
    of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
    q, v = (of(1, 40, 2, size, dtype=jnp.bfloat16) for size in (24, 64))
    attend = partial(ops.linear_attention, method="triton")
    targets = compile_gradient(attend, q, q, v, of(1, 40, 2), of(1, 2, 24, 64))
    assert targets.count("__gpu$xla.gpu.triton") == 2


def test_what_has_no_tiles_is_computed_otherwise_and_said_once(capsys):
    say_once.cache_clear()
    q, v = normal(1, 9, 2, 16), normal(1, 9, 2, 64)
    forms = [partial(ops.linear_attention, method=method) for method in ("pallas", "parallel")]
    for _ in range(2):
        assert_same_program(*forms, q, q, v)
    assert capsys.readouterr().err == (
        "linear_attention: method=parallel in place of pallas, as 2 heads with 16 channels of keys "
        "and 64 of values have no tiles\n"
    )
    g = -jnp.abs(normal(1, 9, 2, 16))
    for more in (dict(log_decay=g), dict(r=q), dict(log_decay=g[..., 0], negative=g[..., 0] < -1)):
        assert_same_program(*(partial(form, **more) for form in forms), q, q, v)
    assert capsys.readouterr().err == ""
    jax.eval_shape(partial(ops.linear_attention, method="triton", r=q), q, q, v)
    assert "parallel in place of triton, as the state is erased" in capsys.readouterr().err


def test_a_tpu_prefers_the_kernels():
    assert FORMS.auto("tpu") == "pallas" and "pallas" in FORMS.on("tpu")
    assert "pallas" not in FORMS.on("gpu") and "pallas" not in FORMS
    assert FORMS.auto("gpu") == "parallel" and "triton" in FORMS.on("gpu")


def compile_for(target: str, dtype, K: int, V: int) -> None:
    def attend(*given):
        return ops.linear_attention_and_sums(*given, method="pallas")

    def arguments(B, shape):
        tokens = [shape(B, 200, 2, size, dtype=dtype) for size in (K, K, V)]
        return *tokens, shape(B, 200, 2), shape(B, 2, K, V), shape(B, 2, K)

    check_gradient(target, attend, arguments)


def compile_for_tpus() -> None:
    for target in TARGETS:
        compile_for(target, jnp.bfloat16, 64, 64)
        compile_for(target, jnp.float32, 128, 64)


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    assert_compiles_apart(__name__)
