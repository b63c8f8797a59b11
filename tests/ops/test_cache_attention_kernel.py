"""The kernel of attention to a cache, interpreted, against its definition; it compiles for TPUs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from seqarch.costs.devices import place
from seqarch.ops.cache_attention import cache_attention, cache_attention_on_tpu
from seqarch.ops.kernels import cache_attention as kernel
from seqarch.ops.kernels.call import interpreted
from seqarch.ops.visibility import Places, Rule
from tests.grids import slow_but
from tests.ops.absent_tpus import TARGETS, assert_compiles_apart
from tests.oracle import assert_near, assert_same_program, outputs_and_gradients

RNG = np.random.default_rng(0)
# Rows, tokens, query and key heads, slots, channels, window, dtype, and how far results may be off.
CASES = {
    "decoding": (2, 1, 4, 4, 37, 128, 5, jnp.float32, 2e-6),
    "narrow heads": (2, 3, 4, 2, 40, 8, None, jnp.float32, 2e-6),
    "bfloat16": (1, 20, 2, 1, 32, 16, None, jnp.bfloat16, 1e-2),
}


def arguments(B, T, H, G, S, K, dtype):
    """The cache of the second row has a slot less; half of the first row is another document's."""
    normal = lambda *shape: jnp.asarray(RNG.normal(size=shape), dtype)
    rows, filled = np.arange(B)[:, None], S - 5
    k_pos = np.where(np.arange(S) < filled - rows, np.arange(S), -1).astype(np.int32)
    position = (filled - rows + np.arange(T)).astype(np.int32)
    segment = ((rows == 0) & (np.arange(T) >= max(1, T // 2))).astype(np.int32)
    at = Places(jnp.asarray(position), jnp.asarray(segment))
    q, k, v = normal(B, T, H, K), normal(B, G, S, K), normal(B, G, S, K)
    return q, k, v, at, jnp.asarray(k_pos), jnp.int32(filled)


@pytest.mark.parametrize("case", slow_but({"decoding"}, CASES))
def test_the_kernel_is_attention_to_a_cache(case, monkeypatch):
    """Several blocks of queries and of slots, of which the last ones are not whole."""
    monkeypatch.setattr(kernel, "SLOTS", 16)
    monkeypatch.setattr(kernel, "QUERIES", 16)
    *sizes, window, dtype, tolerance = CASES[case]
    q, k, v, *rest = arguments(*sizes, dtype)
    rule = Rule(window=window)
    call = lambda form, **how: lambda q, k, v: tuple(form(q, k, v, *rest, rule, **how))
    cotangents = [RNG.normal(size=q.shape), RNG.normal(size=q.shape[:3])]
    cotangents = [jnp.asarray(x, jnp.float32) for x in cotangents]
    expected = outputs_and_gradients(call(cache_attention, block=16), [q, k, v], cotangents)
    with interpreted():
        found = outputs_and_gradients(call(cache_attention_on_tpu), [q, k, v], cotangents)
    assert_near(found, expected, tolerance)


def test_what_it_lacks_is_computed_otherwise():
    *sizes, _, dtype, _ = CASES["narrow heads"]
    given = arguments(*sizes, dtype)
    for rule, how in ((Rule(), dict(alibi=True)), (Rule(end=4), {}), (Rule(first=4, window=9), {})):
        forms = (cache_attention_on_tpu, cache_attention)
        assert_same_program(*(partial(_given, form, rule, how) for form in forms), *given)


def _given(form, rule, how, *given):
    return form(*given, rule, **how)


def compile_for_tpus() -> None:
    for target in TARGETS:
        chip = SingleDeviceSharding(place(target).devices()[0])
        of = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype, sharding=chip)  # noqa: B023
        for B, T, H, G, S, K, dtype in (
            (2, 1, 8, 2, 5000, 64, jnp.bfloat16),
            (1, 700, 4, 4, 4096, 128, jnp.float32),
        ):
            at = Places(of(B, T), of(B, T))
            given = of(B, T, H, K, dtype=dtype), *[of(B, G, S, K, dtype=dtype)] * 2
            attend = lambda *given: cache_attention_on_tpu(*given, Rule())
            traced = jax.jit(attend).trace(*given, at, of(B, S), of())
            text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
            assert text.count("tpu_custom_call") == 1, (target, K)


@pytest.mark.slow
def test_it_compiles_for_every_tpu():
    assert_compiles_apart(__name__)
