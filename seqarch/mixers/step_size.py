"""The step size delta_t of a recurrence in discrete time, and the decay a_t that follows from it.

    delta_t = softplus(d_t + b),    log a_t = -A delta_t

Source: Gu and Dao 2023, "Mamba", section 3.6, and the code of Mamba and Mamba-2 for the values
before training.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.ops.numerics import rows
from seqarch.types import Array, Float

SHORTEST, LONGEST = 1e-3, 1e-1  # step sizes before training
STRONGEST = 16.0  # the largest A before training
WEAKEST = 1e-6  # stands for an A of 0 before training, since log A is the parameter


class StepSize(nnx.Module):
    """Step sizes and log-decays of a recurrence, in float32.

    b starts so that delta is log-uniform in [SHORTEST, LONGEST].

    Args:
      sizes: number of step sizes.
      decays: number of A's; each is for equally many neighbouring step sizes.
      weakest: A before training is uniform between it and STRONGEST.
      rngs: for A and b.
    """

    def __init__(self, sizes: int, decays: int, *, weakest: float = 1.0, rngs: nnx.Rngs):
        self.bias = nnx.Param(step_bias(sizes, rngs), axes=(None,), decay=False)
        A = jax.random.uniform(rngs.params(), (decays,), minval=weakest, maxval=STRONGEST)
        self.log_A = nnx.Param(jnp.log(A), axes=(None,), decay=False)

    def __call__(self, d: Float[Array, "... E"]) -> tuple[Float[Array, "... E"], ...]:
        """Returns delta and log a."""
        delta = jax.nn.softplus(d + rows(self.bias[...], d))
        A = jnp.repeat(jnp.exp(self.log_A[...]), d.shape[-1] // self.log_A.shape[0])
        return delta, -delta * rows(A, delta)


def log_steps(size: int, rngs: nnx.Rngs) -> Float[Array, "E"]:
    """Returns logarithms of random step sizes, uniform between those of SHORTEST and LONGEST."""
    low, high = jnp.log(SHORTEST), jnp.log(LONGEST)
    return jax.random.uniform(rngs.params(), (size,), minval=low, maxval=high)


def step_bias(size: int, rngs: nnx.Rngs) -> Float[Array, "E"]:
    """Returns b for which softplus(b) are the step sizes of `log_steps`."""
    delta = jnp.exp(log_steps(size, rngs))
    return delta + jnp.log(-jnp.expm1(-delta))
