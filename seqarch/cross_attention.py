"""Cross-attention: the tokens of a decoder attend to the vectors of an encoded source.

    y_t = O sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,     q = Q x,  k = Ks e,  v = V e

over all vectors e_s of the source, without positions. Keys and values are computed once for a
source, and a decoding step reads them in place.

Source: Vaswani et al. 2017, "Attention is all you need", section 3.2.3; Ainslie et al. 2023, "GQA"
(grouped heads).
"""

from functools import partial
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear
from seqarch.mixers.attention_options import check_heads
from seqarch.ops.attention import FORMS
from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, DTypeLike, Float, Int

ALL = Rule(causal=False, order="padded", alone=True)


class SourceCache(NamedTuple):
    """The keys and values of a source.

    position: of each vector; -1 where the source has ended
    """

    k: Float[Array, "B G S K"]
    v: Float[Array, "B G S K"]
    position: Int[Array, "B S"]


class CrossAttention(nnx.Module):
    """Softmax attention to a source.

    heads: number H of query heads
    kv_heads: number G of key and value heads; None: H
    method: a form of ops.attention, in training; "auto": the best one on the device
    block: keys per block of the blockwise form
    """

    kv_axes = ("batch", "heads", None, None)
    state_axes: ClassVar[SourceCache] = SourceCache(kv_axes, kv_axes, ("batch", None))

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        method: str = "auto",
        block: int = 512,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kv_heads = heads if kv_heads is None else kv_heads
        check_heads("model.source attention", dim, heads, kv_heads)
        self.kv_heads, self.head_dim = kv_heads, dim // heads
        self.method, self.block, self.dtype = method, block, dtype
        projection = partial(Linear, dim, axes=("embed", "heads"), rngs=rngs, dtype=dtype)
        self.q = projection(dim)
        self.k = projection(kv_heads * self.head_dim)
        self.v = projection(kv_heads * self.head_dim)
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs, dtype=dtype, residual=True)

    def __call__(
        self, x: Float[Array, "B T D"], source: Float[Array, "B S D"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B T D"]:
        """Returns the outputs for all tokens, for training.

        Args:
          x: inputs of the decoder's tokens.
          source: the vectors of the source.
          lengths: vectors of each row before its padding.
        """
        k, v = (self._heads(project(source)) for project in (self.k, self.v))
        at_k = _places(_positions(source.shape[1], lengths))
        form = FORMS.pick(self.method)
        q = self._heads(self.q(x))
        y = form(q, k, v, _places(jnp.zeros(x.shape[:2], int)), at_k, ALL, block=self.block).o
        return self.out(y.reshape(x.shape))

    def init_state(self, batch: int, size: int) -> SourceCache:
        """Returns the cache of no source, with room for `size` vectors; it adds nothing."""
        kv = jnp.zeros((batch, self.kv_heads, size, self.head_dim), self.dtype)
        return SourceCache(kv, kv, jnp.full((batch, size), -1, jnp.int32))

    def read(self, source: Float[Array, "B S D"], lengths: Int[Array, "B"]) -> SourceCache:
        """Returns the keys and values of a source; the arguments are those of `__call__`."""
        k, v = (self._heads(project(source)).swapaxes(1, 2) for project in (self.k, self.v))
        return SourceCache(k, v, _positions(source.shape[1], lengths))

    def attend(self, x: Float[Array, "B T D"], source: SourceCache) -> Float[Array, "B T D"]:
        """Returns the outputs for all tokens, from a cache that is read up to its filled part."""
        filled = source.position.max() + 1
        at_q = _places(jnp.zeros(x.shape[:2], int))
        q = self._heads(self.q(x))
        y = cache_attention(q, source.k, source.v, at_q, source.position, filled, ALL).o
        return self.out(y.reshape(x.shape))

    def _heads(self, x: Float[Array, "B T _"]) -> Float[Array, "B T H K"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


def _positions(size: int, lengths: Int[Array, "B"]) -> Int[Array, "B S"]:
    place = jnp.arange(size)[None]
    return jnp.where(place < lengths[:, None], place, -1).astype(jnp.int32)


def _places(position: Int[Array, "B T"]) -> Places:
    return Places(position, jnp.zeros_like(position))
