"""Tokens go to their slots, and programs of TPUs copy no cache and gather none."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.config import Config, ModelConfig, with_forms
from seqarch.costs.devices import place
from seqarch.costs.programs import phase_program
from seqarch.ops import cache_slots
from seqarch.training.sharding import make_mesh
from tests.ops.absent_tpus import assert_compiles_apart

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("on_tpus", [False, True])
@pytest.mark.parametrize("channels", [(8,), (128,), ()])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_token_of_each_row_goes_to_its_slot(rows, channels, on_tpus):
    """The last row's slot is beyond the last one."""
    cache, new = normal(rows, 2, 5, *channels), normal(rows, 1, 2, *channels)
    write = jax.jit(cache_slots._put_one if on_tpus else cache_slots.put)
    for slots in ([[5]], [[3]]) if rows == 1 else ([[3], [0], [5]],):
        expected = cache.copy()
        for row, (slot,) in enumerate(slots):
            if slot < 5:
                expected[row, :, slot] = new[row, 0]
        np.testing.assert_array_equal(write(cache, new, jnp.array(slots)), expected)


@pytest.mark.parametrize("channels", [(8,), ()])
def test_a_run_of_tokens_goes_to_a_run_of_slots(channels):
    """Rows: within the cache, beyond its end, from a token within the row on, and no token."""
    slots = np.array([[2, 3, 4], [4, 5, 6], [6, 6, 0], [6, 6, 6], [0, 1, 6], [6, 3, 6]])
    cache, new = normal(6, 2, 6, *channels), normal(6, 3, 2, *channels)
    expected = cache.copy()
    for row, places in enumerate(slots):
        for token, slot in enumerate(places):
            if slot < 6:
                expected[row, :, slot] = new[row, token]
    for write in (cache_slots._put_run, partial(cache_slots.put, run=True)):
        np.testing.assert_array_equal(jax.jit(write)(cache, new, jnp.asarray(slots)), expected)


def test_taken_slots_follow_each_other():
    cache = normal(2, 3, 9, 8)
    found = jax.jit(partial(cache_slots.take, size=4))(cache, 3)
    np.testing.assert_array_equal(found, cache[:, :, 3:7])


def compiled(target: str, phase: str, heads: int, width: int, rows: int, slots: int):
    model = ModelConfig(f"attention(heads={heads})", layers=1, dim=width, dtype="bfloat16")
    config = Config(length=128, model=with_forms(model, "tpu"))
    mesh = make_mesh(config.mesh, place(target).devices())
    return phase_program(config, phase, rows, slots, mesh).compile()


def compile_for_tpus() -> None:
    sizes = ((12, 768, 1, 2**14), (12, 768, 4, 2**14), (8, 1024, 1, 2**16))
    for heads, width, rows, slots in sizes:
        program = compiled("tpu-v5e", "decode", heads, width, rows, slots)
        share = program.memory_analysis().temp_size_in_bytes / (4 * rows * slots * width)
        assert share < 0.1, (heads, width, rows, slots, share)
    for phase in ("decode", "prefill"):
        text = compiled("tpu-v5e:2x2", phase, 12, 768, 8, 2**14).as_text()
        gathered = re.findall(r"= (\S+) all-gather", text)
        assert not [shape for shape in gathered if str(2**14) in shape], (phase, gathered)


@pytest.mark.slow
def test_programs_of_tpus_copy_no_cache_and_gather_none():
    assert_compiles_apart(__name__)
