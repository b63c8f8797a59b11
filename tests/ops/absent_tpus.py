"""Compiles the gradients of kernels for TPUs that are not there."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.costs.devices import place

ROOT = Path(__file__).parents[2]
TARGETS = ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7", "tpu-v5e:2x2")
ROWS, WHOLE = PartitionSpec("rows"), PartitionSpec()  # how an array is split over devices


def assert_compiles_apart(module: str) -> None:
    """Asserts that `compile_for_tpus` of a test module ends well, in a process of its own.

    libtpu brings its own libraries; the test is skipped where it is not installed.
    """
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    program = f"from {module} import compile_for_tpus; compile_for_tpus()"
    options = dict(cwd=ROOT, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert done.returncode == 0, done.stderr[-2000:]


def check_gradient(target: str, op: Callable, arguments: Callable) -> None:
    """Requires the gradient of an op to be two kernels, between which rows stay on their devices.

    Args:
      target: the TPUs.
      op: returns arrays, of which the sum is derived by all floating arguments.
      arguments: takes the number of devices and what makes the shape of an array, and returns the
        op's arguments.
    """
    devices = place(target).devices()
    mesh = Mesh(devices, "rows")

    def shape(*axes, dtype=jnp.float32, spec=ROWS):
        return jax.ShapeDtypeStruct(axes, dtype, sharding=NamedSharding(mesh, spec))

    def loss(*given):
        return sum(x.astype(jnp.float32).sum() for x in op(*given))

    given = arguments(len(devices), shape)
    floats = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]
    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(loss, floats)).trace(*given)
    text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    assert "all-gather" not in text
    assert text.count('custom_call_target="tpu_custom_call"') == 2, text
