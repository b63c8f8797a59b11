"""Kernels of attention: interpreted, against the materialised form; compiled for absent TPUs."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from seqarch.costs.devices import place
from seqarch.ops.attention import FORMS, attention
from seqarch.ops.kernels import attention as kernels
from seqarch.ops.kernels.attention import attend
from seqarch.ops.kernels.block_pairs import order_pairs, visible_pairs
from seqarch.ops.kernels.call import interpreted
from seqarch.ops.online_softmax import NOTHING
from seqarch.ops.rope import Rope
from seqarch.ops.visibility import Places, Rule
from tests.grids import slow
from tests.oracle import assert_same_program


def _given(heads, channels, T, S, dtype):
    (H, G), (K, V), B = heads, channels, 2
    shapes = (B, T, H, K), (B, S, G, K), (B, S, G, V), (B, T, H, V), (B, T, H)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    made = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    return [x.astype(dtype) for x in made[:4]] + made[4:]


def _whole(size):
    position = jnp.broadcast_to(jnp.arange(size)[None], (2, size))
    return Places(position, jnp.zeros_like(position))


def _packed(size):
    """A row that continues a document and has two more and padding, and one of a single one."""
    index, third = np.arange(size), size // 3
    segment = np.stack([(index >= third) * 1 + (index >= 2 * third), 0 * index])
    position = np.stack([index - segment[0] * third + 5 * (segment[0] == 0), index + 7])
    position[0, size - 9 :] = -1
    return Places(jnp.asarray(position), jnp.asarray(segment))


def _with_gradients(form, given, at_q, at_k, rule, **how):
    q, k, v, do, d_log_total = given
    here = (at_q.position >= 0)[..., None]

    def products(q, k, v):
        found = form(q, k, v, at_q, at_k, rule, block=128, **how)
        o = jnp.where(here[..., None], found.o, 0)
        log_total = jnp.where(here & (found.log_total > NOTHING), found.log_total, 0)
        total = jnp.vdot(o, do, preferred_element_type=jnp.float32)
        return total + jnp.vdot(log_total, d_log_total), (o, log_total)

    (_, values), gradients = jax.jit(jax.value_and_grad(products, (0, 1, 2), True))(q, k, v)
    return *values, *gradients


@pytest.mark.parametrize(
    ("heads", "channels", "rule", "dtype"),
    [
        slow((2, 1), (128, 40), Rule(window=70, order="whole"), "float32"),
        ((2, 2), (64, 64), Rule(order="packed"), "bfloat16"),
        slow((4, 2), (20, 20), Rule(order="packed", window=60), "float32"),
        slow((1, 1), (16, 16), Rule(causal=False), "float32"),
    ],
)
def test_kernels_compute_what_the_materialised_form_does(heads, channels, rule, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "SIZE", 128)
    monkeypatch.setattr(kernels, "SMALL", 128)
    monkeypatch.setattr(kernels, "SUMMED", 0)  # blocks of queries one after the other
    T, S = 150, 150 if rule.causal else 270
    given = _given(heads, channels, T, S, dtype)
    at_q = _packed(T) if rule.order == "packed" else _whole(T)
    at_k = at_q if rule.causal else _whole(S)
    expected = _with_gradients(FORMS["materialised"], given, at_q, at_k, rule)
    with interpreted():
        found = _with_gradients(attend, given, at_q, at_k, rule)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        within = 2e-2 if dtype == "bfloat16" else 3e-6
        np.testing.assert_allclose(ours, theirs, atol=within * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize(
    ("heads", "channels", "rope", "dtype"),
    [
        ((2, 2), (64, 64), Rope(), "bfloat16"),
        slow((2, 1), (128, 40), Rope(1e5, "yarn:4:32:1:64:1.2"), "float32"),
        slow((4, 2), (20, 20), Rope(rotated=12), "float32"),
        slow((1, 1), (144, 16), Rope(rotated=72), "float32"),
    ],
)
def test_kernels_rotate_queries_and_keys(heads, channels, rope, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "SIZE", 128)
    monkeypatch.setattr(kernels, "SMALL", 128)
    monkeypatch.setattr(kernels, "SUMMED", 0)
    given, at, rule = _given(heads, channels, 150, 150, dtype), _packed(150), Rule(order="packed")

    def rotated(q, k, v, *places, **how):
        q, k = (rope.turn(x, at.position) for x in (q, k))
        return FORMS["materialised"](q, k, v, *places, **how)

    expected = _with_gradients(rotated, given, at, at, rule)
    with interpreted():
        found = _with_gradients(attend, given, at, at, rule, rope=rope)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        within = 2e-2 if dtype == "bfloat16" else 5e-6
        np.testing.assert_allclose(ours, theirs, atol=within * np.abs(theirs).max(), rtol=0)


def test_what_the_kernels_lack_is_left_to_the_blockwise_form():
    """It would fail on a CPU, where nothing interprets the kernels here."""
    q, k, v, *_ = _given((2, 2), (16, 16), 20, 20, "float32")
    position = jnp.broadcast_to(jnp.arange(20)[None], (2, 20))
    at, rope = Places(position, jnp.zeros_like(position)), Rope()

    def turned(q, k, v):
        q, k = (rope.turn(x, position) for x in (q, k))
        return FORMS["blockwise"](q, k, v, at, at, Rule(), block=512).o

    found = lambda *qkv: attend(*qkv, at, at, Rule(), block=512, rope=rope).o
    assert_same_program(found, turned, q, k, v)
    for given, how in (
        ((), dict(alibi=True)),
        ((), dict(relative=jnp.ones((2, 9)))),
        ((position, position), {}),
    ):
        forms = [partial(attention, **how, method=method) for method in ("pallas", "blockwise")]
        assert_same_program(*forms, q, k, v, *given)


def test_turns_are_those_of_blocks_that_see_each_other():
    assert len(visible_pairs((4, 4), 8, True, None)) == 10
    assert len(visible_pairs((4, 4), 8, True, 9)) == 7
    assert len(visible_pairs((4, 4), 8, True, 10)) == 9
    assert len(visible_pairs((2, 3), 8, False, None)) == 6
    pairs = order_pairs(*visible_pairs((3, 3), 8, True, None).T[::-1])
    assert pairs.outer.tolist() == [0, 0, 0, 1, 1, 2]
    assert pairs.inner.tolist() == [0, 1, 2, 1, 2, 2]
    assert pairs.edge.tolist() == [1 + 4 + 8, 4, 2 + 4, 1 + 8, 2, 1 + 2 + 8]
    assert pairs.done.tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7"])
@pytest.mark.parametrize(
    ("H", "K", "dtype"), [(8, 128, "bfloat16"), (4, 64, "bfloat16"), (4, 64, "float32")]
)
def test_kernels_compile_for_absent_tpus(target, H, K, dtype):
    """At a length at which a v4 is nearly full."""
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    device = SingleDeviceSharding(place(target).devices()[0])
    shaped = lambda *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    at = jax.ShapeDtypeStruct((2, 16384), "int32", sharding=device)

    def program(q, k, v, do, position, segment):
        at = Places(position, segment)
        how = dict(block=512, rope=Rope())
        form = lambda *qkv: attend(*qkv, at, at, Rule(order="packed"), **how).o
        return jax.vjp(form, q, k, v)[1](do)

    tokens, grouped = shaped(2, 16384, H, K), shaped(2, 16384, H // 2, K)
    traced = jax.jit(program).trace(tokens, grouped, grouped, tokens, at, at)
    assert "custom-call" in traced.lower(lowering_platforms=("tpu",)).compile().as_text()
