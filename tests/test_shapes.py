"""Annotated shapes are checked in tests, and not in programs unless they are asked to."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from seqarch import ops
from seqarch.mixers import MIXERS, resolve_mixer

ROOT = Path(__file__).parents[1]


def test_an_op_refuses_shapes_that_do_not_agree():
    with pytest.raises(TypeCheckError, match="problem arose whilst typechecking parameter 'b'"):
        ops.linear_scan(jnp.ones((2, 5, 3)), jnp.ones((2, 4, 3)))


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_refuses_an_input_without_time(name):
    call = lambda: resolve_mixer(name)(16, rngs=nnx.Rngs(0))(jnp.ones((2, 16)))
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        jax.eval_shape(call)


@pytest.mark.slow
def test_programs_check_nothing_by_default():
    code = "from seqarch.ops import linear_scan; print(hasattr(linear_scan, '__wrapped__'))"
    environment = {k: v for k, v in os.environ.items() if k != "SEQARCH_CHECK_SHAPES"}
    for extra, checked in (({}, "False\n"), ({"SEQARCH_CHECK_SHAPES": "1"}, "True\n")):
        command = [sys.executable, "-c", code]
        found = subprocess.run(
            command, cwd=ROOT, env=environment | extra, capture_output=True, text=True, check=True
        )
        assert found.stdout == checked
