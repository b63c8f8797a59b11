"""Compiles the gradients of ops for a GPU that is not there."""

import importlib.util
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from seqarch.costs.compiler import codeless
from seqarch.costs.devices import place

TARGET = "gpu-h100"


def compile_gradient(op: Callable, *shapes: jax.ShapeDtypeStruct) -> list[str]:
    """Returns the targets of the custom calls of an op's gradient, compiled for an H100.

    The test is skipped where its compiler is not installed. NVIDIA's assembler is not called.

    Args:
      op: returns arrays, of which the sum is derived by all floating arguments.
      shapes: of the arguments.
    """
    if not importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("the CUDA plugin is not installed")
    target = place(TARGET)
    device = SingleDeviceSharding(target.devices()[0])
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device) for x in shapes]
    floats = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(*given):
        return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(op(*given)))

    lowered = jax.jit(jax.grad(loss, floats)).trace(*given).lower(lowering_platforms=("cuda",))
    text = lowered.compile(codeless("gpu", target.target.memory)).as_text()
    return re.findall(r'custom_call_target="([^"]+)"', text)
