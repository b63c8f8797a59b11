"""Multi-head latent attention (MLA): keys and values of all heads come from one small latent.

    c_t = norm(W_dkv x_t)                               the latent, of kv_rank channels
    k_s = [W_uk c_s, rope(W_kr x_s)]   v_s = W_uv c_s   the rotated part is shared by the heads
    q_t = [W_uq c'_t, rope(W_qr c'_t)]                  c'_t = norm(W_dq x_t); without q_rank: x_t
    y_t = O sum_{s <= t} softmax_s(q_t . k_s / sqrt(K + rope_dim)) v_s

Its state is a cache of c_s and rope(W_kr x_s): kv_rank + rope_dim channels a token, instead of
2 H K. A call and a prompt build keys and values of its own tokens; attention to the cache is
computed in the latent space, where W_uk is absorbed by the query and W_uv by the output:

    q_t . (W_uk c_s) = (W_uk^T q_t) . c_s

Source: Liu et al. 2024, "DeepSeek-V2", section 2.1, equations 9-19, and 3.1.2 for the norms.
"""

import math
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear, RMSNorm
from seqarch.mixers.cached import CachedMixer, Projections, no_tokens
from seqarch.mixers.heads import head_width, split_heads
from seqarch.ops.attention import FORMS
from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.numerics import dot
from seqarch.ops.online_softmax import Partial
from seqarch.types import Array, DTypeLike, Float, Int


class LatentCache(NamedTuple):
    """A cache of latents, with the shared rotated keys behind them.

    position: the position of the token in each slot; -1 where the slot is empty
    length: tokens of the current document so far, which is the next position
    """

    latent: Float[Array, "B 1 S K"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]


class MLA(CachedMixer):
    """Multi-head latent attention.

    heads: number H of heads
    kv_rank: channels of the latent of keys and values; None: dim / 2
    q_rank: channels of the latent of queries; None: queries come from the input
    rope_dim: rotated channels of queries and keys, beside the others; None: half a head's
    rope: base of the rotary frequencies
    method: a form of ops.attention; "auto": the best one on the device
    block: keys per block of the blockwise form
    state_dtype: dtype of the cache; None: that of the computation
    """

    forms, state_option = FORMS, "kv_rank"
    state_axes = LatentCache(
        latent=("batch", None, None, None), position=("batch", None), length=("batch",)
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        rope_dim: int | None = None,
        rope: float = 10_000.0,
        method: str = "auto",
        block: int = 512,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        K = head_width("mla", dim, heads)
        rank = max(1, dim // 2) if kv_rank is None else kv_rank
        rope_dim = max(2, K // 4 * 2) if rope_dim is None else rope_dim
        _check_sizes(rank, q_rank, rope_dim, rope)
        self.heads, self.head_dim, self.rank, self.rope_dim = heads, K, rank, rope_dim
        self.rope, self.method, self.block, self.dtype = rope, method, block, dtype
        self.state_dtype = state_dtype or dtype
        linear = partial(Linear, rngs=rngs, dtype=dtype)
        self.down_q = linear(dim, q_rank, ("embed", None)) if q_rank else None
        self.q_norm = RMSNorm(q_rank, rngs=rngs) if q_rank else None
        self.q = linear(q_rank or dim, heads * (K + rope_dim), ("embed", "heads"))
        self.down = linear(dim, rank + rope_dim, ("embed", None))
        self.norm = RMSNorm(rank, rngs=rngs)
        self.up_k = linear(rank, dim, (None, "heads"))
        self.up_v = linear(rank, dim, (None, "heads"))
        self.out = linear(dim, dim, ("heads", "embed"), residual=True)

    @property
    def constant_state(self):
        return False

    def init_state(self, batch, max_len):
        latent = jnp.zeros((batch, 1, max_len, self.rank + self.rope_dim), self.state_dtype)
        return LatentCache(latent, **no_tokens(batch, max_len))

    def _project(self, x, at, state):
        q = self.q(x if self.down_q is None else self.q_norm(self.down_q(x)))
        q, q_rope = self._split(split_heads(q, self.heads), self.head_dim, at)
        latent, k_rope = self._split(self.down(x)[:, :, None], self.rank, at)
        cached = jnp.concatenate([self.norm(latent), k_rope], axis=-1)
        return Projections(jnp.concatenate([q, q_rope], axis=-1), {"latent": cached})

    def _split(self, x: Float[Array, "B T H K"], size: int, at) -> tuple[Array, Array]:
        """Returns the first `size` channels, and the others rotated."""
        return x[..., :size], ops.rope(x[..., size:], at.position, self.rope)

    def _attend(self, tokens, at, known):
        latent, k_rope = jnp.split(tokens.cached["latent"], [self.rank], axis=-1)
        shape = (*tokens.q.shape[:3], -1)
        k, v = (up(latent[:, :, 0]).reshape(shape) for up in (self.up_k, self.up_v))
        k = jnp.concatenate([k, jnp.broadcast_to(k_rope, (*shape[:3], self.rope_dim))], axis=-1)
        return FORMS.pick(self.method)(tokens.q, k, v, at, at, known, block=self.block)

    def _attend_cache(self, tokens, at, state):
        """Attends in the latent space, in which the values are the first channels of the keys."""
        q, q_rope = jnp.split(tokens.q, [self.head_dim], axis=-1)
        absorbed = dot("bthk,rhk->bthr", q, self._by_head(self.up_k)).astype(q.dtype)
        # The op divides by the root of the channels of its keys.
        scale = ((self.rank + self.rope_dim) / (self.head_dim + self.rope_dim)) ** 0.5
        q = jnp.concatenate([absorbed, q_rope], axis=-1) * jnp.asarray(scale, q.dtype)
        cache, filled = state.latent, state.length.max()
        read = cache_attention(q, cache, cache, at, state.position, filled)
        o = dot("bthr,rhk->bthk", read.o[..., : self.rank], self._by_head(self.up_v))
        return Partial(o.astype(q.dtype), read.log_total)

    def _by_head(self, up: Linear) -> Float[Array, "N H K"]:
        """Returns the kernel of a projection from the latent, by heads."""
        return up.kernel[...].astype(self.dtype).reshape(self.rank, self.heads, self.head_dim)


def _check_sizes(rank: int, q_rank: int | None, rope_dim: int, rope: float) -> None:
    if rank < 1 or (q_rank is not None and q_rank < 1):
        raise UserError(
            f"mla: kv_rank is {rank} and q_rank is {q_rank}; give numbers of channels of at least "
            "1, or None for q_rank"
        )
    if rope_dim < 2 or rope_dim % 2 or not 1 < rope < math.inf:
        raise UserError(
            f"mla: rope_dim is {rope_dim} and rope is {rope}; give an even number of at least 2 "
            "channels, and a base above 1"
        )
