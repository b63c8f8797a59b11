"""Feature maps phi of linear attention, in which phi(q) . phi(k) stands in place of exp(q . k).

Each takes queries or keys [..., K] to features [..., F]. Products of features are at least 0, but
for those of `identity`, so that they can be weights with the sum 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqarch.types import Array, Float


def elu(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns elu(x) + 1, as exp(x) for x <= 0.

    Computed as (exp(x) - 1) + 1, small values would round to 0 in bfloat16.

    Source: Katharopoulos et al. 2020, "Transformers are RNNs", equation 7.
    """
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def squared_relu(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns max(x, 0)^2."""
    return jnp.square(jax.nn.relu(x))


def softmax(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns the softmax over the features, computed in float32.

    Source: Shen et al. 2021, "Efficient attention: attention with linear complexities", section
    3.2, there for queries alone.
    """
    return jax.nn.softmax(x.astype(jnp.float32), axis=-1).astype(x.dtype)


def taylor(x: Float[Array, "... K"]) -> Float[Array, "... F"]:
    """Returns [1, y, y y^T / sqrt(2)] for y = x K^-1/4, computed in float32.

    Products of these features are 1 + s + s^2 / 2, the Taylor polynomial of exp(s), for the scores
    s = q . k / sqrt(K) of attention.

    Source: Arora et al. 2024, "Simple linear attention language models balance the
    recall-throughput tradeoff", section 4.1.
    """
    y = x.astype(jnp.float32) * x.shape[-1] ** -0.25
    square = y[..., :, None] * y[..., None, :] * 0.5**0.5
    ones = jnp.ones_like(y[..., :1])
    return jnp.concatenate([ones, y, square.reshape(*y.shape[:-1], -1)], axis=-1).astype(x.dtype)


def identity(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns x, whose products may be negative."""
    return x


FEATURE_MAPS: dict[str, Callable[[Array], Array]] = {
    "elu": elu,
    "relu": jax.nn.relu,
    "squared_relu": squared_relu,
    "softmax": softmax,
    "taylor": taylor,
    "identity": identity,
}
