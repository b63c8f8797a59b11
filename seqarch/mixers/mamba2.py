"""Mamba-2, a selective state-space model with one decay per head (Dao and Gu 2024, section 7):

    z, x, B, C, d = W_in x_t                x, B, C = silu(conv(x, B, C))
    delta = softplus(d + b),    a_t = exp(-A delta)         one per head
    S_t = a_t S_{t-1} + B_t (delta_t x_t)^T,    o_t = S_t^T C_t + D x_t
    y_t = W_out norm(o_t * silu(z_t))

B is the key, x the value and C the query of linear attention. The heads of a group share B and C,
and have a norm of their own. With negative_eigenvalues the decay is 2 a_t - 1, in (-1, 1) (Grazzi
et al. 2025, section 4.2).

The convolution has a bias and A starts uniform in [1, 16], as in the paper's code, where
flash-linear-attention has no bias and [0, 16]. The bias starts at 0, and in the code as
the weights do.

Source: Dao and Gu 2024, "Transformers are SSMs: generalized models and efficient algorithms through
structured state space duality".
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.layers import Linear, RMSNorm
from seqarch.mixers.heads import split_heads
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.mixers.step_size import StepSize
from seqarch.ops.decay import widened
from seqarch.ops.linear_attention import Tokens
from seqarch.ops.numerics import spread
from seqarch.types import DTypeLike

HEAD_DIM = 64  # channels of a head, where they divide the inner channels


class Mamba2(MatrixMixer):
    """Mamba-2.

    expand: inner channels per channel of the model, E / D
    state_dim: channels N of B and C
    head_dim: inner channels of a head; None: 64, or the largest power of two that divides E
    groups: number of groups of heads
    bias: whether W_in and W_out have a bias
    conv_width: width of the convolution, in tokens; None: none
    conv_bias: whether the convolution has a bias
    norm_eps: number that the norm adds to the mean square
    negative_eigenvalues: whether decays reach to -1
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    state_option = "state_dim"

    def __init__(
        self,
        dim: int,
        *,
        expand: int = 2,
        state_dim: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
        bias: bool = False,
        conv_width: int | None = 4,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
        negative_eigenvalues: bool = False,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        E = expand * dim
        V = head_dim or math.gcd(HEAD_DIM, E)
        if E < 1 or E % V or state_dim < 1:
            raise UserError(
                f"mamba2: {E} inner channels, head_dim {head_dim}, state_dim {state_dim}; "
                "head_dim must divide the inner channels, and state_dim be at least 1"
            )
        H = E // V
        if H % groups:
            raise UserError(f"mamba2: {H} heads, groups {groups}; groups must divide the heads")
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        shape = dict(heads=H, key=state_dim, value=V, channels=E + 2 * groups * state_dim)
        how |= dict(conv_width=conv_width, conv_bias=conv_bias, gate=jax.nn.silu, bias=bias)
        super().__init__(dim, **shape, **how)
        self.negative, self.groups = negative_eigenvalues, groups
        self.norm = RMSNorm(E, eps=norm_eps, groups=groups, rngs=rngs)
        self.delta = Linear(dim, H, ("embed", None), rngs=rngs, dtype=jnp.float32)
        self.decay = StepSize(H, H, rngs=rngs)
        self.D = nnx.Param(jnp.ones(H), axes=(None,), decay=False)

    def _tokens(self, x, u):
        value, B, C = self._parts(u)
        delta, g = self.decay(self.delta(x))
        g, negative = widened(g) if self.negative else (g, None)
        C, B = (jnp.repeat(each, self.heads // self.groups, axis=-2) for each in (C, B))
        value = (value * spread(delta, self.value)).astype(self.dtype)
        return Tokens(C, B, value, g, negative=negative)

    def _output(self, o, x, u):
        value, _, _ = self._parts(u)
        y = o + spread(jnp.broadcast_to(self.D[...], value.shape[:-1]), self.value) * value
        y = y.reshape(*y.shape[:-2], -1) * self.activation(self.gate(x))
        return self.out(self.norm(y).astype(self.dtype))

    def _parts(self, u):
        """Returns the values [..., H, V], and B and C [..., G, N] of the groups."""
        E = self.heads * self.value
        value, B, C = jnp.split(jax.nn.silu(u), [E, E + self.groups * self.key], axis=-1)
        return split_heads(value, self.heads), *(split_heads(x, self.groups) for x in (B, C))
