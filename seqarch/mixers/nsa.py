"""Native sparse attention (NSA): compressed blocks, chosen blocks and a window, each gated.

    y_t = O sum_c g_t^c * attention_c(q_t)       over the branches c; g_t = sigmoid(W x_t), per head

    compressed   over the blocks complete by t, with the keys sum_j w_j k_j and values sum_j u_j v_j
                 of block tokens j; queries and keys without positions
    chosen       over the tokens s <= t of `chosen` blocks: that of t, the first, the previous one,
                 and those whose compressed keys have the greatest products with the queries
    window       over the tokens s <= t with t - s < window

Blocks are of `size` tokens and begin with the document. A block is chosen for all heads that share
its keys, by the sum of their products, from weights and inputs rounded to about nine bits: these
products are exact (`seqarch.ops.exact`), so that a step and a prompt choose the same blocks. The
gradient is that for the chosen blocks.

Where the paper leaves a function open or has more parts, this is simpler: a block is compressed by
a learned weight for each of its places and each channel, at first those of the mean, instead of an
MLP; compressed blocks are those that can be chosen, and do not overlap; a group of heads chooses by
the sum of their scores instead of that of their probabilities (with one head, both choose the
same); the branches share keys and values.

Its state is a cache of keys and values with one slot per token, a compressed key and value per
block, and the sums of the incomplete block. A step reads the compressed blocks, the chosen blocks
and the window: max_len / size + chosen size + window keys instead of max_len.

Source: Yuan et al. 2025, "Native sparse attention", section 3.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.attention_options import check_heads, rotated_channels
from seqarch.mixers.base import check_unrolled
from seqarch.mixers.cached import CachedMixer, Projections, no_tokens
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.cache_attention import cache_attention, cache_attention_on_tpu
from seqarch.ops.cache_slots import put
from seqarch.ops.compression import (
    Spans,
    block_spans,
    block_sums,
    choose,
    complete_blocks,
    group_queries,
)
from seqarch.ops.exact import exact_product
from seqarch.ops.folding import fold, fold_places, fold_queries, unfold
from seqarch.ops.nsa import FORMS, gathered_cache
from seqarch.ops.online_softmax import as_heads
from seqarch.ops.visibility import Rule
from seqarch.types import Array, DTypeLike, Float, Int

FRACTION = 2.0**-16  # the keys by which blocks are chosen are sums of multiples of it
CHUNK = 64  # queries that choose together


class BlockSums(NamedTuple):
    """Weighted sums over blocks: of keys, of values, and of exact keys in units of FRACTION."""

    k: Float[Array, "B M G K"]
    v: Float[Array, "B M G K"]
    key: Int[Array, "B M G K"]


class BlockCache(NamedTuple):
    """A cache of keys, rotated at their own positions, values and compressed blocks.

    ck, cv, key: compressed keys, values and exact keys of the complete blocks
    pk, pv, part: the sums of the incomplete block
    position: the position of the token in each slot; -1 where the slot is empty
    length: tokens of the current document so far, which is the next position
    """

    k: Float[Array, "B G S K"]
    v: Float[Array, "B G S K"]
    ck: Float[Array, "B G M K"]
    cv: Float[Array, "B G M K"]
    key: Int[Array, "B G M K"]
    pk: Float[Array, "B G K"]
    pv: Float[Array, "B G K"]
    part: Int[Array, "B G K"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]


class Chosen(NamedTuple):
    """What `_project` hands on: unrotated queries, chosen blocks, and the blocks of the call."""

    q: Float[Array, "B T H K"]
    blocks: Int[Array, "B T G count"]
    spans: Spans
    sums: BlockSums


class NSA(CachedMixer):
    """Native sparse attention.

    heads: number H of query heads
    kv_heads: number G of key and value heads, each of which chooses blocks; None: H
    size: tokens of a block
    chosen: number of blocks that a token attends to, its own included
    window: number of the last tokens that a token attends to, itself included
    rope: base of the rotary frequencies; None: no positions
    method: a form of ops.nsa; "auto": the best one on the device
    block: keys per block of the blockwise form of attention
    state_dtype: dtype of the cache of keys and values; None: that of the computation
    """

    forms, piecewise = FORMS, True
    document = ("ck", "cv", "key", "pk", "pv", "part")
    state_axes = BlockCache(
        *(("batch", "heads", None, None),) * 5,
        *(("batch", "heads", None),) * 3,
        position=("batch", None),
        length=("batch",),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        size: int = 32,
        chosen: int = 16,
        window: int = 512,
        rope: float | None = 10_000.0,
        method: str = "auto",
        block: int = 128,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        kv_heads = heads if kv_heads is None else kv_heads
        check_heads("nsa", dim, heads, kv_heads)
        rotated_channels("nsa", dim // heads, rope)
        if min(size, window) < 1:
            raise UserError(
                f"nsa: size is {size} and window is {window}; give numbers of at least 1"
            )
        check_unrolled("nsa: chosen", chosen)
        self.heads, self.kv_heads, self.head_dim, self.rope = heads, kv_heads, dim // heads, rope
        self.size, self.chosen, self.reach = size, chosen, window
        self.method, self.block, self.dtype = method, block, dtype
        self.state_dtype = state_dtype or dtype
        projection = partial(Linear, dim, axes=("embed", "heads"), rngs=rngs, dtype=dtype)
        self.q = projection(dim)
        self.k, self.v = (projection(kv_heads * self.head_dim) for _ in range(2))
        mean = jnp.full((size, kv_heads * self.head_dim), 1 / size)
        self.weigh_k, self.weigh_v = (
            nnx.Param(mean, axes=(None, "heads"), decay=False) for _ in range(2)
        )
        self.gate = projection(3 * heads)
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs, dtype=dtype, residual=True)

    def init_state(self, batch, max_len):
        zeros = lambda *shape, dtype=self.state_dtype: jnp.zeros(
            (batch, self.kv_heads, *shape, self.head_dim), dtype
        )
        blocks = -(-max_len // self.size)
        return BlockCache(
            *(zeros(max_len), zeros(max_len), zeros(blocks), zeros(blocks)),
            zeros(blocks, dtype=jnp.int32),
            *(zeros(dtype=jnp.float32), zeros(dtype=jnp.float32), zeros(dtype=jnp.int32)),
            **no_tokens(batch, max_len),
        )

    def _project(self, x, at, state):
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.head_dim) for p in (self.q, self.k, self.v))
        turn = lambda x: x if self.rope is None else ops.rope(x, at.position, self.rope)
        spans = block_spans(at, state.length, self.size)
        exact = exact_product(x, self.k.kernel[...]).reshape(k.shape)
        key = jnp.round(self._weigh(self.weigh_k, exact, at) / FRACTION).astype(jnp.int32)
        given = self._weigh(self.weigh_k, k, at), self._weigh(self.weigh_v, v, at), key
        before = state.pk, state.pv, state.part
        sums = BlockSums(*(block_sums(*each, spans, self.size) for each in zip(given, before)))
        blocks = self._choose(x, at, state, spans, sums)
        return Projections(turn(q), {"k": turn(k), "v": v}, more=Chosen(q, blocks, spans, sums))

    def _weigh(self, weight, x, at) -> Float[Array, "B T G K"]:
        """Returns keys or values times the weights of their places in their blocks."""
        return weight[...][at.position % self.size].reshape(x.shape) * x.astype(jnp.float32)

    def _choose(self, x, at, state, spans, sums) -> Int[Array, "B T G count"]:
        """Returns the numbers of the blocks that tokens choose among the state's and their own."""
        q = group_queries(x, self.q.kernel[...], self.kv_heads, self.head_dim)
        keys = jnp.concatenate([state.key.swapaxes(1, 2), sums.key[:, :-1]], axis=1)
        old = complete_blocks(state.length, state.key.shape[2], self.size)
        blocks = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), old, spans.at)
        places, blocks = (fold_places(each, self.kv_heads) for each in (at, blocks))
        how = dict(size=self.size, count=self.chosen, chunk=CHUNK)
        chosen = choose(fold(q), places, fold(keys).astype(jnp.float32), blocks, **how)
        return chosen.reshape(len(x), self.kv_heads, *chosen.shape[1:]).swapaxes(1, 2)

    def _attend(self, tokens, at, known):
        more, kv, how = tokens.more, tokens.cached.values(), dict(block=self.block)
        compressed = (x[:, :-1].astype(tokens.q.dtype) for x in more.sums[:2])
        folded = fold_queries(tokens.q, self.kv_heads), *map(fold, kv)
        places = fold_places(at, self.kv_heads, chosen=more.blocks)
        chosen = FORMS.pick(self.method)(*folded, places, size=self.size, **how)
        within = ATTENTION.pick("pallas" if self.is_tpu_kernel else "blockwise")
        return as_heads(
            ATTENTION["blockwise"](more.q, *compressed, at, more.spans.at, Rule(), **how),
            unfold(chosen, self.kv_heads),
            within(tokens.q, *kv, at, at, known._replace(window=self.reach), **how),
        )

    def _attend_cache(self, tokens, at, state):
        more, filled, size = tokens.more, state.length.max(), self.size
        complete = complete_blocks(state.length, state.key.shape[2], size).position
        given = more.q, state.ck, state.cv, at, complete, filled // size
        read = cache_attention_on_tpu if self.is_tpu_kernel else cache_attention
        compressed = read(*given, Rule())
        if at.position.shape[1] == 1:
            given = tokens.q, state.k, state.v, at, more.blocks, state.position
            how = dict(size=size, window=self.reach, on_tpu=self.is_tpu_kernel)
            return as_heads(compressed, *gathered_cache(*given, **how))
        places = fold_places(at, self.kv_heads, chosen=more.blocks)
        k, v = (x.reshape(-1, 1, *x.shape[2:]) for x in state[:2])
        given = fold_queries(tokens.q, self.kv_heads), k, v, places, state.position, filled
        chosen = unfold(cache_attention(*given, Rule(chosen=size)), self.kv_heads)
        given = tokens.q, state.k, state.v, at, state.position, filled
        return as_heads(compressed, chosen, read(*given, Rule(window=self.reach)))

    def _write(self, state, tokens, position, current, count):
        state = super()._write(state, tokens, position, current, count)
        _, _, spans, sums = tokens.more
        rows, blocks = jnp.arange(len(position))[:, None], state.key.shape[2]
        last = jnp.clip(spans.start + spans.size - 1, 0, current.shape[1] - 1)[:, :-1]
        kept = (spans.at.position >= 0) & current[rows, last]
        slot = jnp.where(kept, spans.at.position // self.size, blocks)
        if blocks:
            complete = zip(state[2:5], sums, strict=True)
            ck, cv, key = (put(cache, new[:, :-1], slot) for cache, new in complete)
            state = state._replace(ck=ck, cv=cv, key=key)
        return state._replace(pk=sums.k[:, -1], pv=sums.v[:, -1], part=sums.key[:, -1])

    def _output(self, y, x):
        gates = jax.nn.sigmoid(self.gate(x)).reshape(*x.shape[:2], 3, self.heads, 1)
        return super()._output((gates * y.reshape(*x.shape[:2], 3, self.heads, -1)).sum(2), x)
