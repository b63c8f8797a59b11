"""Products, sums and angles are as exact as they say, in bfloat16 and at any position."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from seqarch import ops
from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.gru import GRU
from seqarch.mixers.linear_attention import LinearAttention
from seqarch.model import LanguageModel
from seqarch.ops.numerics import multiply_rows, project, rows
from seqarch.ops.rope import angles

BFLOAT16 = 2.0**-8  # relative distance of a number from the nearest one in bfloat16, at most


def relative_error(given, exact) -> float:
    """Root mean square of the error, of that of `exact`."""
    given, exact = np.asarray(given, np.float64), np.asarray(exact, np.float64)
    return np.sqrt(((given - exact) ** 2).mean() / (exact**2).mean())


@pytest.mark.parametrize("batch, time", [(16, 256), (64, 1024)])
def test_gradients_of_a_bias_and_a_row_are_summed_in_float32(batch, time):
    linear = Linear(8, 24, (None, None), rngs=nnx.Rngs(0), dtype=jnp.bfloat16, bias=True)
    dy = jax.random.normal(jax.random.key(1), (batch, time, 24), jnp.bfloat16)
    x = jnp.ones((batch, time, 8), jnp.bfloat16)
    exact = np.asarray(dy, np.float64).sum((0, 1))
    gradient = jax.jit(lambda linear, dy: jax.vjp(lambda linear: linear(x), linear)[1](dy)[0])
    assert relative_error(gradient(linear, dy).bias[...], exact) < 1e-5
    (of_rows,) = jax.vjp(lambda v: rows(v, dy), jnp.zeros(24))[1](dy)
    assert of_rows.dtype == jnp.float32 and relative_error(of_rows, exact) < 1e-5


def test_the_gru_bias_gradient_in_bfloat16_is_near_that_in_float32():
    x = jax.random.normal(jax.random.key(0), (16, 256, 16))
    weight = jax.random.normal(jax.random.key(1), x.shape)

    def gradient(dtype):
        loss = lambda gru: (gru(x.astype(dtype)).astype(jnp.float32) * weight).sum()
        return jax.jit(jax.grad(loss))(GRU(16, dtype=dtype, rngs=nnx.Rngs(0))).inp.bias[...]

    assert relative_error(gradient(jnp.bfloat16), gradient(jnp.float32)) < 0.02


def test_one_row_is_multiplied_as_one_of_two_where_tpus_compute():
    x, W = jnp.arange(3.0)[None], jnp.arange(15.0).reshape(3, 5)
    lower = lambda x, platform: (
        jax.jit(lambda x: project(x, W, jnp.float32))
        .trace(x)
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    products = {
        (rows, platform): re.findall(r"dot_general.*-> tensor<(\d)x5xf32>", lower(x, platform))
        for rows, x in ((1, x), (2, jnp.concatenate([x, x])))
        for platform in ("cpu", "tpu")
    }
    assert products == {(1, "cpu"): ["1"], (1, "tpu"): ["2"], (2, "cpu"): ["2"], (2, "tpu"): ["2"]}


def test_rows_are_multiplied_alike_however_many_they_are():
    x, W = jnp.arange(6.0).reshape(2, 3), jnp.arange(15.0).reshape(3, 5)
    product = lambda x: x @ W
    for given in (x, x[:1]):
        np.testing.assert_array_equal(multiply_rows(product, given), product(given))


def test_a_convolution_rounds_once_and_step_is_prefill_to_the_bit():
    B, T, E, W = 2, 64, 16, 4
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = jax.random.normal(keys[0], (B, T, E), jnp.bfloat16), jax.random.normal(keys[1], (W, E))
    state = jax.random.normal(keys[2], (B, W - 1, E), jnp.bfloat16)
    y, last = jax.jit(ops.causal_conv)(x, w, state)
    padded = np.concatenate([state, x], 1).astype(np.float64)
    exact = sum(padded[:, j : j + T] * np.asarray(w, np.float64)[j] for j in range(W))
    assert_allclose(np.asarray(y, np.float64), exact, rtol=BFLOAT16, atol=1e-6)

    def step(state, x):
        y, state = ops.causal_conv_step(x, w, state)
        return state, y

    final, ys = jax.lax.scan(step, state, jnp.moveaxis(x, 1, 0))
    assert (jnp.moveaxis(ys, 0, 1) == y).all() and (final == last).all()


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 0.5])
def test_rotary_angles_are_exact_at_every_position(base):
    position = np.array([[0, 1, 1000, 2**20, 2**24, 2**24 + 1, 2**30 + 7, 2**31 - 1]])
    turns = np.longdouble(base) ** (-np.arange(32, dtype=np.longdouble) / 32) / (
        8 * np.arctan(np.longdouble(1))
    )
    exact = 2 * np.pi * np.asarray((position[..., None] * turns) % 1, np.float64)
    given = np.asarray(angles(jnp.asarray(position, jnp.int32), base, 32), np.float64)
    assert np.abs(np.exp(1j * given) - np.exp(1j * exact)).max() < 1e-6


def test_rotary_scores_depend_on_distance_alone_far_out():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 64))
    rope = jax.jit(ops.rope)
    at = lambda x, position: np.asarray(rope(x, np.array([[position]], np.int32)))
    score = lambda shift, distance: float((at(q, shift + distance) * at(k, shift)).sum())
    for distance in (0, 1, 7):
        near = score(1, distance)
        assert_allclose([score(2**20, distance), score(2**24, distance)], near, atol=1e-4)
    assert abs(score(2**24, 1) - score(2**24, 0)) > 1e-3


@pytest.mark.parametrize("decay", ["none", "data"])
def test_a_sum_over_many_tokens_is_kept_in_float32(decay):
    with pytest.raises(UserError, match="state_dtype is bfloat16.*give float32"):
        LinearAttention(16, state_dtype="bfloat16", decay=decay, rngs=nnx.Rngs(0))
    LinearAttention(16, state_dtype="float32", decay=decay, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("mixer", ["gru", "mamba", "attention", "linear_attention(decay=data)"])
def test_float32_is_float32_in_every_product_unless_the_config_says_otherwise(mixer):
    def precisions(precision: str) -> set[str]:
        config = ModelConfig(mixer, layers=1, dim=16, mlp=16, vocab=8, precision=precision)
        model = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
        loss = lambda model, tokens: model(tokens).sum()
        text = str(jax.make_jaxpr(jax.grad(loss))(model, jax.ShapeDtypeStruct((2, 8), jnp.int32)))
        return set(re.findall(r"precision=\(?([\w.]+)", text))

    assert precisions("highest") == {"Precision.HIGHEST"}
    assert precisions("default") == {"Precision.HIGHEST", "Precision.DEFAULT"}
