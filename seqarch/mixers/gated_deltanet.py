"""Gated DeltaNet (Yang et al. 2025, section 3):

    q, k, v = silu(conv(W x)),    q, k of norm 1 in each head,    b_t = sigmoid(w . x_t)
    a_t = exp(-A softplus(w_a . x_t + delta))       one per head
    S_t = (I - b_t k_t k_t^T) a_t S_{t-1} + b_t k_t v_t^T,    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (norm(o_t) * silu(W_g x_t))

Values have twice the channels of keys. delta starts as in Mamba-2 and A uniform in (0, 16), and the
convolution has no bias, as in the paper's code and in flash-linear-attention.

Source: Yang et al. 2025, "Gated delta networks: improving Mamba2 with delta rule".
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.deltanet import unit
from seqarch.mixers.heads import head_width
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.mixers.step_size import WEAKEST, StepSize
from seqarch.ops.linear_attention import Tokens
from seqarch.ops.numerics import spread
from seqarch.types import DTypeLike


class GatedDeltaNet(MatrixMixer):
    """Gated DeltaNet.

    heads: number H of heads
    expand_key: channels of keys per channel of the model, rounded in each head
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
        expand_key: float = 0.75,
        conv_width: int | None = 4,
        negative_eigenvalues: bool = False,
        method: str = "auto",
        chunk: int = 32,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        K = round(expand_key * head_width("gated_deltanet", dim, heads))
        if K < 1:
            raise UserError(f"gated_deltanet: expand_key is {expand_key}, which leaves no channels")
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        super().__init__(
            dim, heads=heads, key=K, value=2 * K, conv_width=conv_width, gate=jax.nn.silu, **how
        )
        self.strength = 2.0 if negative_eigenvalues else 1.0
        self.beta = Linear(dim, heads, ("embed", None), rngs=rngs, dtype=jnp.float32)
        self.delta = Linear(dim, heads, ("embed", None), rngs=rngs, dtype=jnp.float32)
        self.decay = StepSize(heads, heads, weakest=WEAKEST, rngs=rngs)

    def _tokens(self, x, u):
        q, k, v = self._split(jax.nn.silu(u))
        q, k, x = unit(q) * self.key**-0.5, unit(k), x.astype(jnp.float32)
        b = self.strength * jax.nn.sigmoid(self.beta(x))
        _, g = self.decay(self.delta(x))
        return Tokens(q, spread(b, self.key) * k, v, g, r=spread(jnp.exp(g), self.key) * k)
