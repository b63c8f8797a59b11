"""Linear attention is its equations with every feature map, normalised or not."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.linear_attention import EPS, LinearAttention
from seqarch.ops.feature_maps import FEATURE_MAPS, taylor
from seqarch.patterns import parse_pattern
from tests.grids import slow
from tests.oracle import assert_mixer, normal, sigmoid


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def polynomial(x):
    y = x / x.shape[-1] ** 0.25
    square = np.einsum("...i,...j->...ij", y, y).reshape(*y.shape[:-1], -1) / np.sqrt(2)
    return np.concatenate([np.ones_like(y[..., :1]), y, square], -1)


MAPS = {
    "elu": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
    "relu": lambda x: np.maximum(x, 0),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "softmax": softmax,
    "taylor": polynomial,
    "identity": lambda x: x,
}


def step(p, x, state, phi, normalise):
    H = p["gate_bias"].shape[0]
    q, k, v = ((x @ p[f"{name}.kernel"]).reshape(len(x), H, -1) for name in "qkv")
    a = sigmoid(x @ p["gate.kernel"] + p["gate_bias"])[..., None]
    q, k = phi(q), phi(k)
    S = a[..., None] * state.S + k[..., None] * v[:, :, None]
    z = a * state.z + k if normalise else state.z
    y = np.einsum("bhk,bhkv->bhv", q, S)
    if normalise:
        y = y / ((q * z).sum(-1)[..., None] + EPS)
    return y.reshape(len(x), -1) @ p["out.kernel"], (S, z)


@pytest.mark.parametrize(
    "name, normalise",
    [
        ("elu", True),
        *(slow(name, name != "identity") for name in FEATURE_MAPS if name != "elu"),
        slow("taylor", False),
    ],
)
def test_prefill_is_the_equations(name, normalise):
    options = dict(feature_map=name, feature_dim=3, normalise=normalise)
    make = partial(LinearAttention, heads=2, decay="data", chunk=4, **options)
    # The state is as random keys leave it: a normaliser that is far from 0.
    assert_mixer(make, partial(step, phi=MAPS[name], normalise=normalise))


def test_products_of_taylor_features_are_the_polynomial_of_the_scores():
    q, k = normal(7, 16), normal(7, 16)
    s = (q * k).sum(-1) / 4
    found = (taylor(jnp.asarray(q, jnp.float32)) * taylor(jnp.asarray(k, jnp.float32))).sum(-1)
    np.testing.assert_allclose(found, 1 + s + s**2 / 2, rtol=1e-4)


@pytest.mark.parametrize(
    "options, features", [({}, 8), (dict(feature_map="taylor", feature_dim=4), 1 + 4 + 16)]
)
def test_the_state_has_the_size_of_the_features(options, features):
    state = LinearAttention(32, heads=4, **options, rngs=nnx.Rngs(0)).init_state(2, 0)
    assert state.S.shape == (2, 4, features, 8) and state.z.shape == (2, 4, features)
    bare = LinearAttention(32, **options, normalise=False, rngs=nnx.Rngs(0)).init_state(2, 0)
    assert bare.z.size == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(feature_map="identity"), "products may be negative and sum to 0; give normalise=Fal"),
        (dict(feature_map="tailor"), "feature_map of linear_attention.*taylor"),
        (dict(feature_dim=0), "feature_dim is 0; give at least 1"),
    ],
)
def test_maps_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LinearAttention(8, **options, rngs=nnx.Rngs(0))


def test_a_layer_pattern_can_name_a_map():
    (layer,) = parse_pattern("linear_attention(feature_map=taylor,feature_dim=16)")
    assert dict(layer.options) == dict(feature_map="taylor", feature_dim=16)
