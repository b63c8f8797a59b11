"""Kernels are the forms that other platforms run: values, states and gradients, interpreted.

And they compile for every TPU, where its compiler is installed, also divided over several.
"""

import importlib.util
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch import ops
from seqarch.config import ModelConfig
from seqarch.config.forms import with_forms
from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.ops.kernels import selective_scan as kernels
from seqarch.ops.kernels import selective_scan_gpu as on_gpu
from seqarch.ops.kernels.call import interpreted, say_once
from tests.grids import slow
from tests.ops.absent_gpus import compile_gradient
from tests.oracle import RNG, assert_same_program, normal, softplus

B, E = 2, 128


def arguments(time: int, N: int, dtype=jnp.float32) -> list[jax.Array]:
    """Those of ops.selective_scan; the last tokens of the second row are padding."""
    delta = softplus(normal(B, time, E))
    delta[1, -7:] = 0
    x, Bt, Ct = normal(B, time, E), normal(B, time, N), normal(B, time, N)
    x, Bt, Ct = (jnp.asarray(array, dtype) for array in (x, Bt, Ct))
    delta, A, D, h0 = (
        jnp.asarray(array, jnp.float32)
        for array in (delta, -np.exp(normal(E, N)), normal(E), normal(B, N, E))
    )
    return [x, delta, A, Bt, Ct, D, h0]


def results(method: str, arrays: list[jax.Array], cotangents: list[jax.Array], **options) -> list:
    """Returns the outputs, the final state and the gradients of all arguments."""

    def scan(*arrays):
        return ops.selective_scan(*arrays, method=method, chunk=16, **options)

    def both(*arrays):
        (y, h), pull = jax.vjp(scan, *arrays)
        return [y, h, *pull((cotangents[0].astype(y.dtype), cotangents[1]))]

    return jax.jit(both)(*arrays)


@pytest.mark.parametrize(
    "method, time, N, dtype, packed, negative, tolerance",
    [
        slow("pallas", 40, 16, jnp.float32, True, True, 2e-6),  # two chunks, the second one padded
        ("pallas", 20, 8, jnp.float32, False, False, 2e-6),
        slow("pallas", 40, 16, jnp.bfloat16, True, False, 1e-2),
        slow("triton", 11, 16, jnp.float32, True, True, 2e-6),  # three chunks
        ("triton", 8, 8, jnp.bfloat16, False, False, 1e-2),
    ],
)
def test_the_selective_scan_s_is_its_definition(
    method, time, N, dtype, packed, negative, tolerance, monkeypatch
):
    """To `tolerance` of the largest number of each array."""
    monkeypatch.setattr(kernels, "CHUNK", 32)
    monkeypatch.setattr(on_gpu, "CHUNK", 4)
    arrays = arguments(time, N, dtype)
    cotangents = [jnp.asarray(normal(*arrays[i].shape), dtype) for i in (0, 6)]
    cotangents[1] = cotangents[1].astype(jnp.float32)
    starts = RNG.random((B, time)) < 0.15 if packed else None
    options = dict(starts=starts, negative_eigenvalues=negative)
    with interpreted():
        found = results(method, arrays, cotangents, **options)
    exact = [array.astype(jnp.float32) for array in arrays]
    expected = results("sequential", exact, cotangents, **options)
    assert [each.dtype for each in found[2:]] == [each.dtype for each in arrays]
    for given, wanted in zip(found, expected, strict=True):
        error = np.abs(np.asarray(given, np.float32) - wanted).max()
        assert error <= tolerance * np.abs(wanted).max()


def test_shapes_that_a_kernel_cannot_tile_take_chunks_and_it_is_said_once(capsys):
    say_once.cache_clear()
    arrays = arguments(9, 16)
    arrays = [array[..., :24] if array.shape[-1] == E else array for array in arrays]
    arrays[2] = arrays[2][:24]
    forms = [partial(ops.selective_scan, method=method) for method in ("pallas", "chunked")]
    for _ in range(2):
        assert_same_program(*forms, *arrays)
    said = capsys.readouterr().err
    assert said.count("method=chunked in place of pallas, as 24 channels are no multiple of") == 1


def test_a_kernel_is_what_a_tpu_prefers_and_a_cpu_refuses():
    assert "method=pallas" in with_forms(ModelConfig("mamba"), "tpu").mixer
    with pytest.raises(UserError, match="'pallas' of mamba is a kernel for a TPU, not for a CPU"):
        with_forms(ModelConfig("mamba(method=pallas)"), "cpu")


def test_a_gpu_takes_the_selective_scan_s_where_a_config_names_them():
    assert "method=chunked" in with_forms(ModelConfig("mamba"), "gpu").mixer
    named = ModelConfig("mamba(method=triton)")
    assert "method=triton" in with_forms(named, "gpu").mixer
    with pytest.raises(UserError, match="'triton' of mamba is a kernel for a GPU, not for a TPU"):
        with_forms(named, "tpu")


def test_the_selective_scan_s_compile_for_an_h100(monkeypatch):
    monkeypatch.setattr(on_gpu, "CHUNK", 4)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments(10, 16, jnp.bfloat16)]
    starts = jax.ShapeDtypeStruct((B, 10), bool)
    scan = lambda starts, *arrays: ops.selective_scan(*arrays, starts=starts, method="triton")
    targets = compile_gradient(scan, starts, *shapes)
    assert targets.count("__gpu$xla.gpu.triton") == 2


def test_a_kernel_s_flops_are_those_of_its_body_in_each_turn_of_its_grid():
    """A product of the states of eight tokens has those of each for all: 16 B T E N in place of 2.

    The gradient has the states once more, and four products.
    """
    arrays = arguments(256, 16)
    scan = lambda *arrays: ops.selective_scan(*arrays, method="pallas")[0]
    gradient = jax.grad(lambda *arrays: scan(*arrays).sum(), tuple(range(len(arrays))))
    size = B * 256 * E * 16
    assert count_flops(scan, *arrays).matmul == 16 * size
    assert count_flops(gradient, *arrays).matmul == (16 + 4 * 16) * size


COMPILE = """
import re
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from jax.sharding import SingleDeviceSharding
from seqarch import ops
from seqarch.config import Config, ModelConfig
from seqarch.costs.devices import place
from seqarch.costs.programs import phase_program
from seqarch.training.sharding import make_mesh

def kernels(target, N, dtype, E):
    device = SingleDeviceSharding(place(target).devices()[0])
    of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    def loss(starts, *arrays):
        y, h = ops.selective_scan(*arrays, starts=starts, method="pallas")
        return y.astype(jnp.float32).sum() + h.sum()
    x, B = of(2, 200, E, dtype=dtype), of(2, 200, N, dtype=dtype)
    arrays = x, of(2, 200, E), of(E, N), B, B, of(E), of(2, N, E)
    step = jax.jit(jax.grad(loss, tuple(range(1, 8))))
    lowered = step.trace(of(2, 200, dtype=jnp.bool), *arrays).lower(lowering_platforms=("tpu",))
    return lowered.compile().as_text().count("tpu_custom_call")

for target in ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7"):
    assert kernels(target, 16, jnp.bfloat16, 1024) == 2, target
assert kernels("tpu-v4", 8, jnp.float32, 1024) == 2

config = Config(length=256, model=ModelConfig("mamba", layers=1, dim=128, mlp=64, dtype="bfloat16"))
mesh = make_mesh(config.mesh, place("tpu-v5e:2x2").devices())
text = phase_program(config, "train", 12, 256, mesh).compile().as_text()
called = [line for line in text.splitlines() if "tpu_custom_call" in line]
assert len(called) >= 2 and all("bf16[3,256,256]" in line for line in called), called
gathered = re.findall(r"(\\S+) all-gather(?:-start)?\\(", text)
assert gathered and not [shape for shape in gathered if "[12," in shape], gathered
"""


@pytest.mark.slow
def test_kernels_compile_for_every_tpu_and_each_device_has_its_own_rows():
    """In a process of its own, as libtpu brings its own libraries."""
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
