"""Mamba: a selective state-space model (Gu and Dao 2023, section 3.4 and figure 3):

    u, z = W_in x_t                    u = silu(conv(u))
    delta, B, C = W_x u                delta = softplus(W_delta delta + b_delta)
    h_t = exp(delta A) h_{t-1} + delta u B
    y_t = W_out ((C . h_t + D u) * silu(z))

with the initialisation of the paper's code: A = -(1, ..., N) in every channel, delta log-uniform in
[0.001, 0.1], D = 1; but the bias of the convolution starts at 0, and there as the weights do. With
negative eigenvalues, 2 exp(delta A) - 1 stands in place of exp(delta A) (Grazzi et al. 2025,
"Unlocking state-tracking in linear RNNs through negative eigenvalues").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.layers import Linear
from seqarch.mixers.base import SequenceMixer, check_unrolled, masks
from seqarch.mixers.step_size import step_bias
from seqarch.ops.numerics import dot, rows
from seqarch.ops.selective_scan import FORMS, decays
from seqarch.types import Array, DTypeLike, Float


class MambaState(NamedTuple):
    """The last W - 1 inputs of the convolution, and the state h of the recurrence."""

    conv: Float[Array, "B W-1 E"]
    h: Float[Array, "B N E"]


class Mamba(SequenceMixer):
    """Mamba. delta, A and the state h stay float32 whatever `dtype` is.

    expand: inner channels per channel of the model, E / D
    state_dim: state entries N per inner channel
    conv_width: width W of the convolution, in tokens
    delta_rank: rank R of the projection to delta; None: D / 16, rounded up
    bias: whether W_in and W_out have a bias
    conv_bias: whether the convolution has a bias
    negative_eigenvalues: let a token turn the sign of the state, for state tracking
    method: a form of ops.selective_scan; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    forms, state_option = FORMS, "state_dim"
    state_axes = MambaState(conv=("batch", None, "inner"), h=("batch", None, "inner"))

    def __init__(
        self,
        dim: int,
        *,
        expand: int = 2,
        state_dim: int = 16,
        conv_width: int = 4,
        delta_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        negative_eigenvalues: bool = False,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_unrolled("conv_width", conv_width)
        E, N, W, R = expand * dim, state_dim, conv_width, delta_rank or -(-dim // 16)
        self.inner, self.state_dim, self.conv_width, self.delta_rank = E, N, W, R
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        self.negative_eigenvalues = negative_eigenvalues
        self.inp = Linear(dim, 2 * E, ("embed", "inner"), rngs=rngs, dtype=dtype, bias=bias)

        def uniform(shape: tuple[int, ...], low: float | Array, high: float | Array) -> Array:
            return jax.random.uniform(rngs.params(), shape, minval=low, maxval=high)

        self.conv = nnx.Param(
            uniform((W, E), -(W**-0.5), W**-0.5), axes=(None, "inner"), decay=False
        )
        shift = nnx.Param(jnp.zeros(E), axes=("inner",), decay=False, cast=jnp.dtype(dtype))
        self.conv_bias = shift if conv_bias else None
        self.select = Linear(E, R + 2 * N, ("inner", None), rngs=rngs, dtype=dtype)
        self.delta = nnx.Param(uniform((R, E), -(R**-0.5), R**-0.5), axes=(None, "inner"))
        self.delta_bias = nnx.Param(step_bias(E, rngs), axes=("inner",), decay=False)
        A = jnp.broadcast_to(jnp.arange(1.0, N + 1), (E, N))
        self.log_A = nnx.Param(jnp.log(A), axes=("inner", None), decay=False)
        self.D = nnx.Param(jnp.ones(E), axes=("inner",), decay=False)
        self.out = Linear(
            E, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, bias=bias, residual=True
        )

    def init_state(self, batch, max_len):
        conv = jnp.zeros((batch, self.conv_width - 1, self.inner), self.dtype)
        return MambaState(conv, jnp.zeros((batch, self.state_dim, self.inner), self.state_dtype))

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        u, z = jnp.split(self.inp(x), 2, axis=-1)
        u, conv = ops.causal_conv(u, self.conv[...], state.conv, starts=starts, lengths=lengths)
        u, delta, B, C = self._select(u)
        if valid is not None:
            # exp(0 A) = 1, 2 exp(0 A) - 1 = 1 and 0 u B = 0, so padding leaves the state alone.
            delta = jnp.where(valid[..., None], delta, 0.0)
        y, h = self._scan(u, delta, B, C, state.h.astype(jnp.float32), starts)
        return self.out(y * jax.nn.silu(z)), MambaState(conv, h.astype(self.state_dtype))

    def step(self, x, state):
        u, z = jnp.split(self.inp(x), 2, axis=-1)
        u, conv = ops.causal_conv_step(u, self.conv[...], state.conv)
        u, delta, B, C = self._select(u)
        decay = decays(delta, -jnp.exp(self.log_A[...]).T, self.negative_eigenvalues)
        u32, h = u.astype(jnp.float32), state.h.astype(jnp.float32)
        h = decay * h + (delta * u32)[:, None] * B[..., None]
        y = (dot("bne,bn->be", h, C) + rows(self.D[...], u32) * u32).astype(u.dtype)
        return self.out(y * jax.nn.silu(z)), MambaState(conv, h.astype(self.state_dtype))

    def _scan(self, u, delta, B, C, h, starts):
        A = -jnp.exp(self.log_A[...])
        return ops.selective_scan(
            u,
            delta,
            A,
            B,
            C,
            self.D[...],
            h,
            starts=starts,
            negative_eigenvalues=self.negative_eigenvalues,
            method=self.method,
            chunk=self.chunk,
        )

    def _select(self, u: Float[Array, "... E"]):
        """Returns u after the convolution's activation, delta in float32, and B and C."""
        u = jax.nn.silu(u if self.conv_bias is None else u + rows(self.conv_bias[...], u))
        R, N = self.delta_rank, self.state_dim
        low, B, C = jnp.split(self.select(u), [R, R + N], axis=-1)
        delta = dot("...r,re->...e", low.astype(jnp.float32), self.delta[...])
        return u, jax.nn.softplus(delta + rows(self.delta_bias[...], delta)), B, C
