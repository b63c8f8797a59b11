"""Gated linear attention (Yang et al. 2023, section 4.4):

    q, k, v = W_q x, W_k x, W_v x
    a_t = sigmoid(W_a2 W_a1 x_t + b)^(1/16)         one per key channel
    S_t = diag(a_t) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (norm(o_t) * silu(W_g x_t))

Keys and queries have half the width of values.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training".
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear
from seqarch.mixers.heads import head_width, split_heads
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.ops.linear_attention import Tokens
from seqarch.types import DTypeLike

SMOOTHING = 16  # the gate's exponent is its inverse, which draws the decay to 1


class GLA(MatrixMixer):
    """Gated linear attention.

    heads: number H of heads
    gate_rank: rank of the projection to the decay
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        gate_rank: int = 16,
        method: str = "auto",
        chunk: int = 32,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        value = head_width("gla", dim, heads)
        key = head_width("gla", dim // 2, heads)
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        super().__init__(dim, heads=heads, key=key, value=value, gate=jax.nn.silu, **how)
        at = dict(rngs=rngs, dtype=jnp.float32)
        self.low = Linear(dim, gate_rank, ("embed", None), **at)
        self.decay = Linear(gate_rank, heads * key, (None, "heads"), bias=True, **at)

    def _tokens(self, x, u):
        q, k, v = self._split(u)
        gate = self.decay(self.low(x))
        log_a = split_heads(jax.nn.log_sigmoid(gate), self.heads) / SMOOTHING
        return Tokens(q * self.key**-0.5, k, v, log_a)
