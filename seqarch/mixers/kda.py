"""Kimi delta attention (Kimi Team 2025), Gated DeltaNet with a decay per key channel:

    q, k, v = silu(conv(W x)),    q, k of norm 1 in each head,    b_t = sigmoid(w . x_t)
    a_t = exp(-A softplus(W_a2 W_a1 x_t + delta))       one per key channel; A is one per head
    S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (norm(o_t) * sigmoid(W_g2 W_g1 x_t))

The low-rank projections W_a2 W_a1 and W_g2 W_g1 have the rank K. A and delta start as in Mamba-2.
In flash-linear-attention, the code of its authors, W_g2 has a bias, which the paper does not name.

Source: Kimi Team 2025, "Kimi Linear: an expressive, efficient attention architecture", sections 3
(the recurrence) and 4 (the projections and gates).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear
from seqarch.mixers.deltanet import unit
from seqarch.mixers.heads import head_width, split_heads
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.mixers.step_size import StepSize
from seqarch.ops.linear_attention import Tokens
from seqarch.ops.numerics import spread
from seqarch.types import DTypeLike


class KDA(MatrixMixer):
    """Kimi delta attention.

    heads: number H of heads
    conv_width: width of the convolution of q, k and v, in tokens; None: none
    negative_eigenvalues: whether eigenvalues of transitions reach to -1
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        conv_width: int | None = 4,
        negative_eigenvalues: bool = False,
        method: str = "auto",
        chunk: int = 32,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        K = head_width("kda", dim, heads)
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        gate = dict(gate=jax.nn.sigmoid, gate_rank=K)
        shape = dict(heads=heads, key=K, value=K, conv_width=conv_width)
        super().__init__(dim, **shape, **gate, **how)
        self.strength = 2.0 if negative_eigenvalues else 1.0
        at = dict(rngs=rngs, dtype=jnp.float32)
        self.beta = Linear(dim, heads, ("embed", None), **at)
        self.low = Linear(dim, K, ("embed", None), **at)
        self.delta = Linear(K, dim, (None, "heads"), **at)
        self.decay = StepSize(dim, heads, rngs=rngs)

    def _tokens(self, x, u):
        # An activation in bfloat16 would move gradients by 0.13 of their rms, instead of by 0.03.
        q, k, v = self._split(jax.nn.silu(u.astype(jnp.float32)))
        q, k, x = unit(q) * self.key**-0.5, unit(k), x.astype(jnp.float32)
        b = self.strength * jax.nn.sigmoid(self.beta(x))
        _, g = self.decay(self.delta(self.low(x)))
        g = split_heads(g, self.heads)
        return Tokens(q, spread(b, self.key) * k, v.astype(u.dtype), g, r=jnp.exp(g) * k)
