"""The kernel of attention to ranges of a cache, interpreted; a token of NSA takes it on TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from seqarch.costs.devices import place
from seqarch.ops import nsa
from seqarch.ops.kernels import cache_ranges as kernel
from seqarch.ops.kernels.cache_ranges import Ranges, attend_ranges, definition
from seqarch.ops.kernels.call import interpreted
from seqarch.ops.visibility import Places
from tests.ops.absent_tpus import TARGETS, assert_compiles_apart
from tests.oracle import assert_near, outputs_and_gradients

RNG = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


@pytest.mark.parametrize(
    "channels, dtype, tolerance", [(128, "float32", 2e-6), (16, "bfloat16", 1e-2)]
)
def test_the_kernel_is_attention_to_ranges(channels, dtype, tolerance, monkeypatch):
    """The cache of the second row is half empty, the last block not whole, some ranges empty.

    The tables of a row are all that fits.
    """
    monkeypatch.setattr(kernel, "WORDS", 12)
    B, G, H, S = 2, 2, 6, 300
    q = normal(B, 1, H, channels, dtype=dtype)
    k, v = (normal(B, G, S, channels, dtype=dtype) for _ in range(2))
    slot = np.arange(S)
    k_pos = jnp.asarray(np.where(slot < np.array([[S], [150]]), slot, -1), jnp.int32)
    low = np.array([[[0, 128, 290], [40, 60, 0]], [[130, 140, 0], [256, 299, 0]]])
    high = low + np.array([[[128, 1, 10], [8, 0, 8]], [[4, 30, 0], [9, 1, 0]]])
    ranges = Ranges(jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32))
    call = lambda form: lambda q, k, v: tuple(form(q, k, v, k_pos, ranges))
    cotangents = [normal(*q.shape), normal(B, 1, H)]
    expected = outputs_and_gradients(call(definition), [q, k, v], cotangents)
    with interpreted():
        found = outputs_and_gradients(call(attend_ranges), [q, k, v], cotangents)
    assert_near(found, expected, tolerance)


def test_a_token_reads_the_same_by_the_kernel():
    """Of two rows, the second is shorter than the window; some blocks are not chosen."""
    B, H, G, S, K, size, window = 2, 4, 2, 200, 16, 32, 70
    position = jnp.array([[180], [40]])
    at = Places(position, jnp.zeros_like(position))
    k_pos = jnp.asarray(np.where(np.arange(S) <= np.asarray(position), np.arange(S), -1), jnp.int32)
    chosen = jnp.array([[[[0, 3, 5], [5, 2, 1]]], [[[1, 0, -1], [0, 1, -1]]]])
    given = normal(B, 1, H, K), normal(B, G, S, K), normal(B, G, S, K), at, chosen, k_pos
    how = dict(size=size, window=window)
    expected = nsa.gathered_cache(*given, **how)
    with interpreted():
        found = jax.jit(lambda *given: nsa.gathered_cache(*given, **how, on_tpu=True))(*given)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def compile_for_tpus() -> None:
    for target in TARGETS:
        chip = SingleDeviceSharding(place(target).devices()[0])
        of = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype, sharding=chip)  # noqa: B023
        for B, H, G, S, K, dtype in (
            (2, 8, 2, 5000, 64, "bfloat16"),
            (1, 4, 4, 4096, 128, "float32"),
        ):
            given = of(B, 1, H, K, dtype=dtype), *[of(B, G, S, K, dtype=dtype)] * 2
            ranges = Ranges(of(B, G, 16), of(B, G, 16))
            traced = jax.jit(attend_ranges).trace(*given, of(B, S), ranges)
            text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
            assert text.count("tpu_custom_call") == 1, (target, K)


@pytest.mark.slow
def test_it_compiles_for_every_tpu():
    assert_compiles_apart(__name__)
