"""The step sizes delta with which state space models start."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.types import Array, Float

SHORTEST, LONGEST = 1e-3, 1e-1


def log_steps(size: int, rngs: nnx.Rngs) -> Float[Array, "E"]:
    """Returns logarithms of random step sizes, uniform between those of SHORTEST and LONGEST."""
    low, high = jnp.log(SHORTEST), jnp.log(LONGEST)
    return jax.random.uniform(rngs.params(), (size,), minval=low, maxval=high)
