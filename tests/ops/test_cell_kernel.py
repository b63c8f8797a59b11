"""The kernels of cells, interpreted, against the step-by-step forms in float32.

And they compile for every TPU, where its compiler is installed, also divided over several.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.ops import cell
from seqarch.ops.gru import FORMS
from seqarch.ops.kernels import cell_blocks
from seqarch.ops.kernels.call import interpreted, say_once
from tests.grids import slow
from tests.ops.absent_tpus import TARGETS, WHOLE, assert_compiles_apart, check_gradient
from tests.oracle import RNG, assert_same_program, normal, outputs_and_gradients

F32, BF16 = jnp.float32, jnp.bfloat16


def shapes(name: str, B: int, T: int, E: int, H: int = 1) -> list[tuple[int, ...]]:
    """Those of u, W and the other arguments; the sLSTM has H heads, of E units together."""
    K = E // H
    return {
        "gru": [(B, T, 3 * E), (E, 3 * E), (3 * E,), (B, E)],
        "lstm": [(B, T, 4 * E), (E, 4 * E), (B, E), (B, E)],
        "slstm": [(B, T, H, 4, K), (H, K, 4, K), *[(B, H, K)] * 4],
    }[name]


def arguments(name: str, *sizes: int, dtypes=(F32, F32)) -> list[jax.Array]:
    """Those of an op, u and W in the given dtypes."""
    u, W, *rest = (normal(*shape) for shape in shapes(name, *sizes))
    if name == "slstm":
        rest[2] = np.abs(rest[2]) + 1
        rest = [x * (np.arange(len(x)) % 3 > 0)[:, None, None] for x in rest]  # empty in some rows
    W = W / W.shape[-3 if name == "slstm" else 0] ** 0.5
    return [*map(jnp.asarray, (u, W), dtypes), *(jnp.asarray(x, F32) for x in rest)]


def caller(name: str, method: str, **options):
    """Returns a function of an op's arguments that returns its outputs and last states."""

    def run(u, W, *rest):
        if name == "slstm":
            hs, state = ops.slstm(u, W, rest, method=method, **options)
        else:
            hs, state = getattr(ops, name)(u, W, *rest, method=method, **options)
        return hs, *jax.tree.leaves(state)

    return run


@pytest.mark.parametrize(
    "name, sizes, dtypes, starts, lengths, tolerance",
    [
        slow("gru", (8, 9, 128), (F32, F32), True, True, 2e-6),  # chunks of 4; the last one padded
        ("gru", (3, 5, 128), (F32, F32), False, False, 2e-6),  # rows of padding
        slow("gru", (20, 8, 128), (F32, F32), True, False, 2e-6),  # three blocks of rows
        slow("gru", (8, 7, 128), (BF16, BF16), True, True, 1e-2),
        slow("gru", (8, 8, 128), (F32, BF16), False, True, 1e-2),
        slow("gru", (8, 6, 128), (BF16, F32), True, False, 1e-2),
        slow("lstm", (9, 9, 256), (F32, F32), True, True, 2e-6),
        ("lstm", (3, 5, 128), (BF16, BF16), False, False, 1e-2),
        slow("slstm", (9, 9, 256, 4), (F32, F32), True, True, 2e-6),  # two heads at once
        ("slstm(exp)", (3, 5, 128), (F32, F32), False, False, 2e-6),
        slow("slstm", (3, 5, 128), (F32, BF16), True, False, 1e-2),
    ],
)
def test_they_are_the_recurrence(name, sizes, dtypes, starts, lengths, tolerance, monkeypatch):
    """To `tolerance` of the largest number of each array."""
    monkeypatch.setattr(cell_blocks, "TOKENS", 4)
    monkeypatch.setattr(cell_blocks, "ROWS", 8)
    options, (batch, time, *_) = {}, sizes
    if name == "slstm(exp)":
        name, options["forget"] = "slstm", "exp"
    if starts:
        options["starts"] = RNG.random((batch, time)) < 0.3
    if lengths:
        options["valid"] = np.arange(time) < RNG.integers(0, time + 1, (batch, 1))
    given = arguments(name, *sizes, dtypes=dtypes)
    function = caller(name, "pallas", **options)
    outputs = jax.eval_shape(function, *given)
    cotangents = [jnp.asarray(normal(*x.shape), x.dtype) for x in outputs]
    if name == "slstm" and BF16 in dtypes:
        # The stabiliser is a maximum: where rounding changes which, so does the gradient of the
        # states that it scales, but not that of the output.
        cotangents[2:] = [jnp.zeros_like(x) for x in cotangents[2:]]
    with interpreted():
        found = outputs_and_gradients(function, given, cotangents)
    exact = [array.astype(F32) for array in given]
    expected = outputs_and_gradients(caller(name, "sequential", **options), exact, cotangents)
    assert [each.dtype for each in found[len(outputs) :]] == [each.dtype for each in given]
    assert [each.dtype for each in outputs] == [dtypes[0], *[F32] * (len(outputs) - 1)]
    for i, (each, wanted) in enumerate(zip(found, expected, strict=True)):
        error = np.abs(np.asarray(each, np.float32) - wanted).max()
        assert error <= tolerance * np.abs(wanted).max(), (i, error)


@pytest.mark.parametrize(
    "name, sizes, dtype, why",
    [
        ("gru", (1, 2, 24), F32, "24 units are no multiple of 128"),
        ("gru", (1, 2, 896), F32, "13.8 MiB of weights are more than 8"),
        ("slstm", (1, 2, 144, 2), F32, "144 units are no multiple of 128"),
    ],
)
def test_what_they_cannot_take_is_recomputed_and_said_once(name, sizes, dtype, why, capsys):
    say_once.cache_clear()
    given = arguments(name, *sizes, dtypes=(dtype, dtype))
    for _ in range(2):
        assert_same_program(caller(name, "pallas"), caller(name, "recompute"), *given)
    line = f"{name}: method=recompute in place of pallas, as {why}\n"
    assert capsys.readouterr().err == line


def test_one_token_takes_no_kernel(capsys):
    given = arguments("gru", 2, 1, 128)
    assert_same_program(caller("gru", "pallas"), caller("gru", "recompute"), *given)
    assert capsys.readouterr().err == ""


def test_a_tpu_prefers_the_kernels():
    for forms in (FORMS, cell.FORMS):
        assert forms.auto("tpu") == "pallas" and "pallas" in forms.on("tpu")
        assert "pallas" not in forms.on("gpu") and "pallas" not in forms


def compile_for(target: str, name: str, dtypes: tuple, rows: int, T: int, *sizes: int) -> None:
    """For `rows` of each device; u and W are of the dtypes."""

    def run(starts, valid, *given):
        return caller(name, "pallas", starts=starts, valid=valid)(*given)

    def given(devices, shape):
        B = rows * devices
        found = [shape(B, T, dtype=jnp.bool), shape(B, T, dtype=jnp.bool)]
        of_each = zip(shapes(name, B, T, *sizes), (*dtypes, *[F32] * 4))
        for i, (axes, dtype) in enumerate(of_each):
            is_weights = i == 1 or len(axes) == 1
            found.append(shape(*axes, dtype=dtype, **({"spec": WHOLE} if is_weights else {})))
        return found

    with jax.default_matmul_precision("highest"):
        check_gradient(target, run, given)


def compile_for_tpus() -> None:
    """Small cells for every TPU, and those that fill the memory of the smallest one."""
    for target in TARGETS:
        compile_for(target, "gru", (F32, F32), 3, 33, 256)
        compile_for(target, "lstm", (BF16, BF16), 8, 33, 256)
        compile_for(target, "slstm", (F32, BF16), 8, 33, 256, 4)
    compile_for("tpu-v4", "gru", (BF16, BF16), 8, 33, 1024)
    compile_for("tpu-v4", "gru", (F32, BF16), 130, 20, 1152)
    compile_for("tpu-v4", "lstm", (BF16, BF16), 130, 20, 1024)


@pytest.mark.slow
def test_they_compile_for_every_tpu():
    assert_compiles_apart(__name__)
