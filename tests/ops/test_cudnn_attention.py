"""Attention by cuDNN: its arguments, read by XLA on a CPU; its programs, compiled for an H100."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.flops import count_flops
from seqarch.ops import cudnn_attention
from seqarch.ops.attention import FORMS, attention
from seqarch.ops.kernels.call import say_once
from seqarch.ops.visibility import Places, Rule
from tests.ops.absent_gpus import compile_gradient
from tests.ops.test_ops import B, G, H, K, T, normal
from tests.ops.test_ops import attention as definition
from tests.oracle import assert_form, assert_same_program

LENGTHS = np.array([T, T - 4])


@pytest.fixture
def by_xla(monkeypatch):
    """XLA computes what cuDNN would be called with, in float32."""
    monkeypatch.setattr(cudnn_attention, "IMPLEMENTATION", "xla")
    monkeypatch.setattr(cudnn_attention, "DTYPES", (jnp.float32,))
    cudnn_attention._missing.cache_clear()
    yield
    cudnn_attention._missing.cache_clear()


@pytest.mark.parametrize(
    "rule",
    [
        Rule(order="whole"),
        Rule(window=3, order="padded"),
        Rule(causal=False, order="padded"),
        Rule(causal=False, order="whole"),
    ],
)
def test_its_arguments_say_what_a_query_sees(rule, by_xla):
    """T is odd, and K is no multiple of the channels that it takes."""
    lengths = LENGTHS if rule.order == "padded" else np.full(B, T)
    here = np.arange(T)[None] < lengths[:, None]
    at = Places(jnp.where(here, jnp.arange(T), -1), jnp.zeros((B, T), int))

    def function(*qkv):
        found = cudnn_attention.attend(*qkv, at, at, rule._replace(alone=True), block=T)
        assert found.log_total is None
        return found.o

    def oracle(*qkv):
        return definition(*qkv, ~here, rule.window, rule.causal) * here[..., None, None]

    assert_form(function, oracle, [normal(B, T, H, K), normal(B, T, G, K), normal(B, T, G, K)])


def test_a_source_may_be_empty_and_has_its_own_length(by_xla):
    q, k = normal(2, 3, H, K), normal(2, 5, G, K)
    at_q = Places(jnp.zeros((2, 3), int), jnp.zeros((2, 3), int))
    at_k = Places(jnp.array([[0, 1, 2, -1, -1], [-1] * 5]), jnp.zeros((2, 5), int))
    rule = Rule(causal=False, order="padded", alone=True)
    q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, normal(2, 5, G, 3)))
    found, expected = (
        jax.jit(lambda *qkv: form(*qkv, at_q, at_k, rule, block=8).o)(q, k, v)
        for form in (cudnn_attention.attend, FORMS["materialised"])
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_it_lacks_is_left_to_the_blockwise_form_and_said_once(capsys):
    say_once.cache_clear()
    assert FORMS.auto("gpu") == "cudnn" and FORMS.auto("accelerator") == "blockwise"
    q, k = (jnp.asarray(normal(B, T, heads, K), jnp.float32) for heads in (H, G))
    for how in ({}, {}, dict(alibi=True)):
        form = functools.partial(attention, **how)
        by_both = (functools.partial(form, method=name) for name in ("cudnn", "blockwise"))
        assert_same_program(*by_both, q, k, k)
    wide = jax.ShapeDtypeStruct((1, 2, 1, 136), jnp.bfloat16)
    jax.eval_shape(functools.partial(attention, method="cudnn"), wide, wide, wide)
    narrow = jax.ShapeDtypeStruct((1, 2, 1, 8), jnp.bfloat16)
    at = Places(jnp.arange(2)[None], jnp.zeros((1, 2), int))
    packed = Rule(order="packed", alone=True)
    for rule in (packed, packed._replace(alone=False)):
        form = lambda *qkv, rule=rule: FORMS.pick("cudnn")(*qkv, at, at, rule, block=8)
        jax.eval_shape(form, narrow, narrow, narrow)
    assert capsys.readouterr().err.splitlines() == [
        f"attention: method=blockwise in place of cudnn, as {reason}"
        for reason in (
            "cuDNN takes bfloat16 or float16, not float32",
            "heads of 136 channels are wider than 128",
            "rows may hold several documents",
        )
    ]


def test_it_compiles_for_an_h100():
    """Forward and backward, with a window, grouped heads, and values narrower than keys."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    op = functools.partial(attention, window=100, method="cudnn")
    shapes = of(2, 301, 4, 64), of(2, 301, 2, 64), of(2, 301, 2, 40)
    cudnn_attention._missing.cache_clear()
    if cudnn_attention._missing():
        pytest.skip("cuDNN is not installed")
    targets = compile_gradient(op, *shapes)
    assert targets == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    pairs = sum(min(t + 1, 100) for t in range(302))
    assert count_flops(op, *shapes).matmul == 2 * 2 * 4 * pairs * 128
    total = lambda *qkv: op(*qkv).astype(jnp.float32).sum()
    assert count_flops(jax.grad(total, (0, 1, 2)), *shapes).matmul == 7 * 2 * 4 * pairs * 128
