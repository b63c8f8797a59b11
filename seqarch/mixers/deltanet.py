"""DeltaNet, linear attention with the delta rule (Yang et al. 2024, sections 2 and 3):

    q, k, v = silu(conv(W x)),    q, k of norm 1 in each head,    b_t = sigmoid(w . x_t)
    S_t = S_{t-1} - b_t k_t (k_t^T S_{t-1}) + b_t k_t v_t^T,    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o norm(o_t)

A write replaces the share b of what the state holds at its key. With negative_eigenvalues, b is
twice as large, so that the eigenvalue 1 - b of a transition lies in (-1, 1) and not in (0, 1)
(Grazzi et al. 2025, "Unlocking state-tracking in linear RNNs through negative eigenvalues").

Source: Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence
length".
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear
from seqarch.mixers.heads import head_width
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.ops.linear_attention import Tokens
from seqarch.ops.numerics import dot, spread
from seqarch.types import Array, DTypeLike, Float

EPS = 1e-6  # added to the square of a norm


class DeltaNet(MatrixMixer):
    """DeltaNet.

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
        K = head_width("deltanet", dim, heads)
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        super().__init__(dim, heads=heads, key=K, value=K, conv_width=conv_width, **how)
        self.strength = 2.0 if negative_eigenvalues else 1.0
        self.beta = Linear(dim, heads, ("embed", None), rngs=rngs, dtype=jnp.float32)

    def _tokens(self, x, u):
        q, k, v = self._split(jax.nn.silu(u))
        q, k = unit(q) * self.key**-0.5, unit(k)
        b = self.strength * jax.nn.sigmoid(self.beta(x))
        return Tokens(q, spread(b, self.key) * k, v, r=k)


def unit(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns x / |x|, in float32."""
    x = x.astype(jnp.float32)
    return x * spread(jax.lax.rsqrt(dot("...k,...k->...", x, x) + EPS), x.shape[-1])
