"""LSH attention: a token attends to earlier ones of the same hash, found in several rounds.

    q_t = W x_t,   k_t = q_t / |q_t|                       queries and keys share a projection
    h_r(t) = argmax([q_t R_r, -q_t R_r])                   the bucket in round r; R_r random, fixed
    P_t = union over r of { s < t : h_r(s) = h_r(t), fewer than `window` of that bucket between }
    y_t = O sum_s softmax_s(q_t . k_s) v_s                 over s in P_t; s = t where it is empty

with unrotated q in the hash, and rotary positions in the scores. The choice of keys is a function
of the prefix, so that a step and a prompt make the same one: Reformer sorts whole sequences into
chunks, which shift with later tokens. For the same reason the number of buckets is fixed, and so
are R_r, which Reformer draws anew at each step of training. Hashes come from inputs and weights
that are rounded to about nine bits, whose products are exact (`seqarch.ops.exact`). The gradient is
that for the chosen keys.

The time of a call is proportional to T rounds (window + block), its memory to T rounds. Its state
is a full cache of keys and values with their addresses, `rounds` integers for each head and token,
and the numbers of tokens in the buckets. A step compares its addresses with all of these and reads
all keys and values, so decoding takes what it takes with full attention, and somewhat more memory.

Source: Kitaev et al. 2020, "Reformer", section 2 and appendix A. Its reference implementation, like
this one, does not divide the scores by the root of the channels, since keys have length one. It has
positions in the inputs instead of rotary ones.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.attention_options import check_heads, rotated_channels
from seqarch.mixers.base import check_unrolled
from seqarch.mixers.cached import CachedMixer, Projections, no_tokens
from seqarch.mixers.heads import split_heads
from seqarch.ops.lsh import FORMS, addresses, cached_lsh, hashes, lsh, recount
from seqarch.ops.numerics import rms
from seqarch.types import Array, DTypeLike, Float, Int


class HashedCache(NamedTuple):
    """A cache of keys, rotated at their own positions, values and addresses.

    address: bucket and rank of the token in each slot, as in `seqarch.ops.lsh`
    count: tokens of the document in each bucket
    position: the position of the token in each slot; -1 where the slot is empty
    length: tokens of the current document so far, which is the next position
    """

    k: Float[Array, "B H S K"]
    v: Float[Array, "B H S K"]
    address: Int[Array, "B H S rounds"]
    count: Int[Array, "B H rounds buckets"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]


class LSH(CachedMixer):
    """Attention to tokens of the same hash.

    heads: number H of heads
    buckets: number of values of a hash; even
    rounds: number of hashes; a token attends to what any of them finds
    window: number of earlier tokens that it finds in a bucket
    rope: base of the rotary frequencies; None: no positions
    method: a form of ops.lsh; "auto": the best one on the device
    block: tokens per block of the sorted form
    state_dtype: dtype of the cache of keys and values; None: that of the computation
    """

    forms, piecewise, document = FORMS, True, ("count",)
    state_axes = HashedCache(
        *(("batch", "heads", None, None),) * 4, position=("batch", None), length=("batch",)
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        buckets: int = 16,
        rounds: int = 4,
        window: int = 64,
        rope: float | None = 10_000.0,
        method: str = "auto",
        block: int = 128,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        check_heads("lsh", dim, heads, heads)
        rotated_channels("lsh", dim // heads, rope)
        if buckets < 2 or buckets % 2 or window < 1:
            raise UserError(
                f"lsh: buckets is {buckets} and window is {window}; give an even number of "
                "buckets, and a window of at least 1"
            )
        check_unrolled("lsh: rounds", rounds)
        self.heads, self.head_dim, self.rope = heads, dim // heads, rope
        self.buckets, self.rounds, self.reach = buckets, rounds, window
        self.method, self.block, self.dtype = method, block, dtype
        self.state_dtype = state_dtype or dtype
        projection = partial(Linear, dim, dim, rngs=rngs, dtype=dtype)
        self.q = projection(("embed", "heads"))
        self.v = projection(("embed", "heads"))
        self.out = projection(("heads", "embed"), residual=True)

    def init_state(self, batch, max_len):
        shape = (batch, self.heads, max_len)
        k, v = (jnp.zeros((*shape, self.head_dim), self.state_dtype) for _ in range(2))
        address = jnp.zeros((*shape, self.rounds), jnp.int32)
        count = jnp.zeros((batch, self.heads, self.rounds, self.buckets), jnp.int32)
        return HashedCache(k, v, address, count, **no_tokens(batch, max_len))

    def _project(self, x, at, state):
        q, v = (split_heads(p(x), self.heads) for p in (self.q, self.v))
        # The ops divide by the root of the channels, which is the length of a key with an rms of 1.
        k = rms(q)
        if self.rope is not None:
            q, k = (ops.rope(each, at.position, self.rope) for each in (q, k))
        bucket = hashes(x, self.q.kernel[...], self.heads, self.rounds, self.buckets)
        return Projections(q, {"k": k, "v": v, "address": addresses(bucket, at, state.count)})

    def _attend(self, tokens, at, known):
        how = dict(window=self.reach, method=self.method, block=self.block)
        return lsh(tokens.q, *tokens.cached.values(), at=at, **how)

    def _attend_cache(self, tokens, at, state):
        given = tokens.q, tokens.cached["v"], at, tokens.cached["address"], state[:3]
        return cached_lsh(*given, state.position, state.length.max(), window=self.reach)

    def _write(self, state, tokens, position, current, count):
        kept = (position >= 0) & current
        state = state._replace(count=recount(state.count, tokens.cached["address"], kept))
        return super()._write(state, tokens, position, current, count)
