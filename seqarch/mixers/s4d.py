"""S4D: a diagonal state space model for each channel, the same for all tokens.

    h_t = exp(delta A) h_{t-1} + (exp(delta A) - 1) / A u_t        for each of N entries A
    y_t = 2 Re(C . h_t) + D u_t
    o_t = (W_v z_t + b_v) * sigmoid(W_g z_t + b_g),    z_t = gelu(y_t)

h, A and C are complex, and each entry stands for itself and its conjugate, so y is real; the paper
counts both. A starts as -1/2 + i pi n, n = 0, ..., N - 1 (S4D-Lin), delta log-uniform in [0.001,
0.1], one per channel, and C and D normal.

Source: Gu et al. 2022, "On the parameterization and initialization of diagonal state space models",
sections 3 and 4; the output is that of the S4 block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.base import FormMixer
from seqarch.mixers.step_size import log_steps
from seqarch.ops.diagonal_ssm import FORMS, from_parts, zero_order_hold
from seqarch.ops.numerics import rows
from seqarch.types import Array, DTypeLike, Float


class S4DState(NamedTuple):
    """Real and imaginary parts of h, for the N entries of each channel."""

    h: Float[Array, "B 2 N D"]


class S4D(FormMixer):
    """S4D. Its state is N complex numbers per channel, in float32 whatever `dtype` is.

    state_dim: complex entries N in the state of a channel
    method: a form of ops.diagonal_ssm; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    forms, state_option = FORMS, "state_dim"
    state_axes = S4DState(h=("batch", None, None, "inner"))

    def __init__(
        self,
        dim: int,
        *,
        state_dim: int = 32,
        method: str = "auto",
        chunk: int = 16,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if state_dim < 1:
            raise UserError(f"s4d: state_dim is {state_dim}; give a whole number of at least 1")
        N = state_dim
        self.dim, self.state_dim, self.dtype, self.state_dtype = dim, N, dtype, state_dtype
        self.method, self.chunk = method, chunk
        self.log_delta = nnx.Param(log_steps(dim, rngs), axes=("inner",), decay=False)
        decay, turn = jnp.full((N, dim), 0.5), jnp.pi * jnp.arange(N)
        self.log_decay = nnx.Param(jnp.log(decay), axes=(None, "inner"), decay=False)
        turn = jnp.broadcast_to(turn[:, None], decay.shape)
        self.turn = nnx.Param(turn, axes=(None, "inner"), decay=False)
        C = jax.random.normal(rngs.params(), (2, N, dim)) * 0.5**0.5
        self.C = nnx.Param(C, axes=(None, None, "inner"))
        self.D = nnx.Param(jax.random.normal(rngs.params(), (dim,)), axes=("inner",), decay=False)
        options = dict(rngs=rngs, dtype=dtype, bias=True)
        self.gate = Linear(dim, dim, ("inner", "embed"), **options)
        self.out = Linear(dim, dim, ("inner", "embed"), **options, residual=True)

    def init_state(self, batch, max_len):
        return S4DState(jnp.zeros((batch, 2, self.state_dim, self.dim), self.state_dtype))

    def _run(self, u, state, method, **masks):
        A = jax.lax.complex(-jnp.exp(self.log_decay[...]), self.turn[...])
        log_a, b = zero_order_hold(A, jnp.broadcast_to(self.log_delta[...], A.shape))
        c, h = 2 * from_parts(self.C[...], 0), state.h.astype(jnp.float32)
        y, h = ops.diagonal_ssm(u, log_a, b, c, h, method=method, chunk=self.chunk, **masks)
        y = y + rows(self.D[...], y) * u.astype(jnp.float32)
        z = jax.nn.gelu(y, approximate=False).astype(self.dtype)
        return self.out(z) * jax.nn.sigmoid(self.gate(z)), S4DState(h.astype(self.state_dtype))
