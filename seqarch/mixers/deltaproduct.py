"""DeltaProduct, several steps of the delta rule a token (Siems et al. 2025):

    q, k_1, ..., k_n, v_1, ..., v_n = silu(conv(W x)),    q and k_j of norm 1
    b_j = 2 sigmoid(w_j . x_t)
    S <- S - b_j k_j (k_j^T S) + b_j k_j v_j^T              for j = 1, ..., n
    o_t = S_t^T q_t / sqrt(K),    y_t = W_o norm(o_t)

A transition is a product of n generalised Householder matrices, so that with n >= 2 it can rotate.
Without negative_eigenvalues, b_j has no factor 2. With decay="data", the gated DeltaProduct, the
state decays once a token, before the first step: S <- a_t S with the a_t of gated DeltaNet.

Source: Siems et al. 2025, "DeltaProduct: improving state-tracking in linear RNNs via Householder
products".
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import unknown
from seqarch.layers import Linear
from seqarch.mixers.base import check_unrolled
from seqarch.mixers.deltanet import unit
from seqarch.mixers.heads import head_width
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.mixers.step_size import WEAKEST, StepSize
from seqarch.ops.linear_attention import Tokens, linear_attention_step
from seqarch.ops.numerics import spread
from seqarch.types import Array, DTypeLike, Float


class DeltaProduct(MatrixMixer):
    """DeltaProduct.

    steps: steps n of the delta rule a token
    heads: number H of heads
    conv_width: width of the convolution of q, k and v, in tokens; None: none
    negative_eigenvalues: whether eigenvalues of a step's transition reach to -1
    decay: how the state decays: "none", or "data" for a gate per head and token
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: steps per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    def __init__(
        self,
        dim: int,
        *,
        steps: int = 2,
        heads: int = 4,
        conv_width: int | None = 4,
        negative_eigenvalues: bool = True,
        decay: str = "none",
        method: str = "auto",
        chunk: int = 32,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        K = head_width("deltaproduct", dim, heads)
        check_unrolled("deltaproduct: steps", steps)
        if decay not in ("none", "data"):
            raise unknown("decay of deltaproduct", decay, ("none", "data"))
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        channels = (1 + 2 * steps) * dim
        shape = dict(heads=heads, key=K, value=K, channels=channels, conv_width=conv_width)
        super().__init__(dim, **shape, **how)
        self.steps, self.strength = steps, 2.0 if negative_eigenvalues else 1.0
        self.beta = Linear(dim, steps * heads, ("embed", None), rngs=rngs, dtype=jnp.float32)
        delta = size = None  # assigned once, since nnx takes an attribute of None for static
        if decay == "data":
            delta = Linear(dim, heads, ("embed", None), rngs=rngs, dtype=jnp.float32)
            size = StepSize(heads, heads, weakest=WEAKEST, rngs=rngs)
        self.delta, self.decay = delta, size

    def _tokens(self, x, u):
        """Returns tokens whose arrays have an axis of steps before the heads."""
        n, H, K = self.steps, self.heads, self.key
        u = jax.nn.silu(u).reshape(*u.shape[:-1], 1 + 2 * n, H, K)
        k, v = unit(u[..., 1 : 1 + n, :, :]), u[..., 1 + n :, :, :]
        q = jnp.zeros_like(k).at[..., -1, :, :].set(unit(u[..., 0, :, :]) * K**-0.5)
        x = x.astype(jnp.float32)
        b = self.strength * jax.nn.sigmoid(self.beta(x)).reshape(k.shape[:-1])
        if self.decay is None:
            return Tokens(q, spread(b, K) * k, v, r=k)
        _, of_token = self.decay(self.delta(x))
        g = jnp.zeros_like(b).at[..., 0, :].set(of_token)
        return Tokens(q, spread(b, K) * k, v, g, r=spread(jnp.exp(g), K) * k)

    def _recur(self, tokens, S, starts, valid):
        if starts is not None:
            first = jnp.zeros((*starts.shape, self.steps), bool).at[..., 0].set(starts)
            starts = first.reshape(len(starts), -1)
        tokens = jax.tree.map(lambda x: x.reshape(len(x), -1, *x.shape[3:]), tokens)
        o, S = super()._recur(tokens, S, starts, None)
        return o[:, self.steps - 1 :: self.steps], S

    def _recur_step(self, tokens, S):
        o: Float[Array, "B H V"] | None = None
        for j in range(self.steps):
            o, S = linear_attention_step(jax.tree.map(lambda x, j=j: x[:, j], tokens), S)
        return o, S
