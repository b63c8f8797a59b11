"""Retention, the mixer of RetNet (Sun et al. 2023, sections 2.1 and 2.2):

    S_t = gamma R S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (norm(o_t) * silu(W_g x_t))

gamma = 1 - 2^(-5-h) in head h. R rotates pairs of key channels by fixed angles, as rotary positions
do; the paper writes gamma R as a complex decay. So the state needs no position: it is kept as seen
from its last token. The paper does not say which angles: here they are those of rotary positions,
10000^(-2i/K), as in flash-linear-attention; in the authors' code (torchscale) the last pair has
10000^-1, and the exponents between 0 and -1 are evenly spaced.

Source: Sun et al. 2023, "Retentive network: a successor to Transformer", equations 5 to 8.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.heads import head_width
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.ops.linear_attention import Tokens, linear_attention_step
from seqarch.ops.rope import rope
from seqarch.types import Array, DTypeLike, Float, Int


class RetNet(MatrixMixer):
    """Retention.

    heads: number H of heads
    expand: channels of values per channel of the model
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        expand: int = 2,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        key = head_width("retnet", dim, heads)
        if key % 2 or expand < 1:
            raise UserError(
                f"retnet: {key} channels a head, expand {expand}; give an even number of channels, "
                "which rotate in pairs, and expand of at least 1"
            )
        how = dict(method=method, chunk=chunk, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        super().__init__(dim, heads=heads, key=key, value=expand * key, gate=jax.nn.silu, **how)

    def _tokens(self, x, u):
        q, k, v = self._split(u)
        log_gamma = jnp.log1p(-(2.0 ** (-5 - jnp.arange(self.heads))))
        return Tokens(q * self.key**-0.5, k, v, jnp.broadcast_to(log_gamma, q.shape[:-1]))

    def _recur(self, tokens, S, starts, valid):
        batch, time = tokens.q.shape[:2]
        last = jnp.full(batch, time) if valid is None else valid.sum(axis=1)
        left = last[:, None] - 1 - jnp.arange(time)[None]  # turns until the last token
        tokens = tokens._replace(q=rope(tokens.q, left), k=rope(tokens.k, left))
        return super()._recur(tokens, turned(S, last), starts, valid)

    def _recur_step(self, tokens, S):
        return linear_attention_step(tokens, turned(S, jnp.ones(len(S), jnp.int32)))


def turned(S: Float[Array, "B H K V"], turns: Int[Array, "B"]) -> Float[Array, "B H K V"]:
    """Returns R^turns S."""
    position = jnp.broadcast_to(turns[:, None], (len(S), S.shape[-1]))
    return jnp.moveaxis(rope(jnp.moveaxis(S, -1, 1), position), 1, -1)
