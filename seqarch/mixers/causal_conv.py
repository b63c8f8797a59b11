"""The short causal convolution inside a mixer, with its parameters and its state."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.mixers.base import check_unrolled
from seqarch.ops.numerics import rows
from seqarch.types import Array, Bool, DTypeLike, Float, Int


class CausalConv(nnx.Module):
    """The convolution y_t = sum_j w_j x_{t-W+1+j} + b of each channel.

    Its state is the last W - 1 inputs.

    Args:
      weights: w [W, E] before training.
      axis: logical name of the channels.
      dtype: of the computation and the state.
      bias: whether there is a b.
    """

    def __init__(
        self, weights: Float[Array, "W E"], *, axis: str, dtype: DTypeLike, bias: bool = True
    ):
        self.weights = nnx.Param(weights, axes=(None, axis), decay=False)
        b = None
        if bias:
            zeros, cast = jnp.zeros(weights.shape[1]), jnp.dtype(dtype)
            b = nnx.Param(zeros, axes=(axis,), decay=False, cast=cast)
        self.bias, self.dtype = b, dtype

    def init_state(self, batch: int) -> Float[Array, "B _ E"]:
        """Returns the inputs before the first token, which are zero."""
        width, channels = self.weights.shape
        return jnp.zeros((batch, width - 1, channels), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T E"],
        state: Float[Array, "B _ E"],
        starts: Bool[Array, "B T"] | None,
        lengths: Int[Array, "B"] | None,
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B _ E"]]:
        """Returns the outputs and the state after them; see ops.causal_conv."""
        y, state = ops.causal_conv(x, self.weights[...], state, starts=starts, lengths=lengths)
        return self._shifted(y), state

    def step(
        self, x: Float[Array, "B E"], state: Float[Array, "B _ E"]
    ) -> tuple[Float[Array, "B E"], Float[Array, "B _ E"]]:
        """Returns the output for one token a row, and the state after it."""
        y, state = ops.causal_conv_step(x, self.weights[...], state)
        return self._shifted(y), state

    def _shifted(self, y: Float[Array, "... E"]) -> Float[Array, "... E"]:
        return y if self.bias is None else y + rows(self.bias[...], y)


def uniform_conv(
    width: int, channels: int, axis: str, rngs: nnx.Rngs, dtype: DTypeLike, bias: bool = True
) -> CausalConv:
    """Returns a convolution whose weights start uniform in +-1 / sqrt(width).

    Raises:
      UserError: for a width that `check_unrolled` refuses.
    """
    check_unrolled("conv_width", width)
    bound = width**-0.5
    weights = jax.random.uniform(rngs.params(), (width, channels), minval=-bound, maxval=bound)
    return CausalConv(weights, axis=axis, dtype=dtype, bias=bias)
