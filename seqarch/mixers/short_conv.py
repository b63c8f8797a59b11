"""A short causal convolution before any mixer, with a residual.

    u_t = x_t + sum_j w_j x_{t-W+1+j},    y = mixer(u)

It lets a mixer compare a token with those just before it, on which much of the recall of recurrent
mixers depends. It is therefore an option of every block, `model.conv`, rather than of one mixer.

Source: Allen-Zhu 2025, "Physics of language models: part 4.1", equation 4.1, the layer
Canon-A without activation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.mixers.base import SequenceMixer, check_unrolled, masks
from seqarch.types import Array, DTypeLike, Float, State


class ShortConvState(NamedTuple):
    """The last W - 1 inputs, and the state of the mixer that follows."""

    conv: Float[Array, "B W-1 D"]
    mixer: State


class ShortConv(SequenceMixer):
    """A mixer with a short convolution before it.

    mixer: the mixer that follows the convolution
    width: width W of the convolution, in tokens
    """

    def __init__(
        self,
        mixer: SequenceMixer,
        dim: int,
        *,
        width: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_unrolled("model.conv", width)
        self.mixer, self.width, self.dim, self.dtype = mixer, width, dim, dtype
        bound = width**-0.5
        weights = jax.random.uniform(rngs.params(), (width, dim), minval=-bound, maxval=bound)
        self.conv = nnx.Param(weights, axes=(None, "embed"), decay=False)

    @property
    def causal(self):
        return self.mixer.causal

    @property
    def is_tpu_kernel(self):
        return self.mixer.is_tpu_kernel

    @property
    def constant_state(self):
        return self.mixer.constant_state

    @property
    def state_axes(self):
        return ShortConvState(("batch", None, "embed"), self.mixer.state_axes)

    def init_state(self, batch, max_len):
        halo = jnp.zeros((batch, self.width - 1, self.dim), self.dtype)
        return ShortConvState(halo, self.mixer.init_state(batch, max_len))

    def room(self, state, *, fresh=False):
        return self.mixer.room(state.mixer, fresh=fresh)

    def prefill(self, x, state, starts=None, lengths=None):
        begun, _ = masks(x, starts, lengths)
        mixed, conv = ops.causal_conv(x, self.conv[...], state.conv, starts=begun, lengths=lengths)
        y, inner = self.mixer.prefill(x + mixed, state.mixer, starts, lengths)
        return y, ShortConvState(conv, inner)

    def step(self, x, state):
        mixed, conv = ops.causal_conv_step(x, self.conv[...], state.conv)
        y, inner = self.mixer.step(x + mixed, state.mixer)
        return y, ShortConvState(conv, inner)
