"""The kernels of the GRU, interpreted, against the step-by-step form in float32.

And they compile for every TPU, where its compiler is installed, also divided over several.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops.gru import FORMS
from seqarch.ops.kernels import gru as kernels
from seqarch.ops.kernels.call import interpreted, say_once
from tests.ops.absent_tpus import TARGETS, WHOLE, check_gradient, compile_apart
from tests.oracle import RNG, normal


def arguments(batch: int, time: int, E: int, dtypes=(jnp.float32, jnp.float32)) -> list[jax.Array]:
    """Those of ops.gru, u and W in the given dtypes."""
    u, W = normal(batch, time, 3 * E), normal(E, 3 * E) / E**0.5
    rest = (jnp.asarray(x, jnp.float32) for x in (normal(3 * E), normal(batch, E)))
    return [*map(jnp.asarray, (u, W), dtypes), *rest]


def results(method: str, arrays: list[jax.Array], cotangents: list[jax.Array], **masks) -> list:
    """Returns the states, the last one and the gradients of all arguments."""

    def both(*arrays):
        (hs, h), pull = jax.vjp(lambda *arrays: ops.gru(*arrays, method=method, **masks), *arrays)
        return [hs, h, *pull((cotangents[0].astype(hs.dtype), cotangents[1]))]

    return jax.jit(both)(*arrays)


@pytest.mark.parametrize(
    "batch, time, dtypes, starts, lengths, tolerance",
    [
        (8, 9, (jnp.float32, jnp.float32), True, True, 2e-6),  # chunks of 4; the last one padded
        (3, 5, (jnp.float32, jnp.float32), False, False, 2e-6),  # rows of padding
        (20, 8, (jnp.float32, jnp.float32), True, False, 2e-6),  # two blocks of rows
        (8, 7, (jnp.bfloat16, jnp.bfloat16), True, True, 1e-2),
        (8, 8, (jnp.float32, jnp.bfloat16), False, True, 1e-2),
        (8, 6, (jnp.bfloat16, jnp.float32), True, False, 1e-2),
    ],
)
def test_they_are_the_recurrence(batch, time, dtypes, starts, lengths, tolerance, monkeypatch):
    """To `tolerance` of the largest number of each array."""
    E = 128
    monkeypatch.setattr(kernels, "TOKENS", 4)
    monkeypatch.setattr(kernels, "BLOCK", 2**14)
    arrays = arguments(batch, time, E, dtypes)
    cotangents = [
        jnp.asarray(normal(*shape), x.dtype)
        for shape, x in zip(((batch, time, E), (batch, E)), (arrays[0], arrays[3]), strict=True)
    ]
    masks = {}
    if starts:
        masks["starts"] = RNG.random((batch, time)) < 0.3
    if lengths:
        masks["valid"] = np.arange(time) < RNG.integers(0, time + 1, (batch, 1))
    with interpreted():
        found = results("pallas", arrays, cotangents, **masks)
    exact = [array.astype(jnp.float32) for array in arrays]
    expected = results("sequential", exact, cotangents, **masks)
    assert [each.dtype for each in found[2:]] == [each.dtype for each in arrays]
    assert (found[0].dtype, found[1].dtype) == (dtypes[0], jnp.float32)
    for name, given, wanted in zip(("hs", "h", "u", "W", "b", "h0"), found, expected, strict=True):
        error = np.abs(np.asarray(given, np.float32) - wanted).max()
        assert error <= tolerance * np.abs(wanted).max(), (name, error)


def test_what_they_cannot_take_is_recomputed_and_said_once(capsys):
    say_once.cache_clear()
    for E, dtype, why in (
        (24, jnp.float32, "24 units are no multiple of 128"),
        (896, jnp.float32, "13.8 MiB of weights are more than 8"),
    ):
        arrays = arguments(1, 2, E, (dtype, dtype))
        expected = ops.gru(*arrays, method="recompute")
        for _ in range(2):
            found = ops.gru(*arrays, method="pallas")
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        line = f"gru: method=recompute in place of pallas, as {why}\n"
        assert capsys.readouterr().err == line


def test_one_token_takes_no_kernel(capsys):
    arrays = arguments(2, 1, 128)
    found = ops.gru(*arrays, method="pallas")
    jax.tree.map(np.testing.assert_array_equal, found, ops.gru(*arrays, method="recompute"))
    assert capsys.readouterr().err == ""


def test_a_tpu_prefers_the_kernels():
    assert FORMS.auto("tpu") == "pallas" and "pallas" in FORMS.on("tpu")
    assert "pallas" not in FORMS.on("gpu") and "pallas" not in FORMS


def compile_for(target: str, u, W, E: int, rows: int, T: int) -> None:
    """For `rows` of each device; u and W are dtypes."""

    def run(u, W, b, h0, starts, valid):
        return ops.gru(u, W, b, h0, starts=starts, valid=valid, method="pallas")

    def arguments(devices, shape):
        B = rows * devices
        weights = shape(E, 3 * E, dtype=W, spec=WHOLE), shape(3 * E, spec=WHOLE)
        masks = shape(B, T, dtype=jnp.bool), shape(B, T, dtype=jnp.bool)
        return shape(B, T, 3 * E, dtype=u), *weights, shape(B, E), *masks

    with jax.default_matmul_precision("highest"):
        check_gradient(target, run, arguments)


def compile_for_tpus() -> None:
    for target in TARGETS:
        compile_for(target, jnp.bfloat16, jnp.bfloat16, 1024, 8, 33)
        compile_for(target, jnp.float32, jnp.float32, 256, 3, 33)
    compile_for("tpu-v4", jnp.float32, jnp.bfloat16, 1152, 130, 20)


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    compile_apart(__name__)
