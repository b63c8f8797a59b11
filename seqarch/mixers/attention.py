"""Multi-head softmax attention with grouped heads, rotary positions, QK-norm and sliding window.

    y_t = O sum_s softmax_s(q_t . k_s / sqrt(K)) v_s        over 0 <= t - s < window

Its state is a cache of keys and values with one slot per token; with a window it is a ring of
`window` slots. A token beyond the last slot makes the outputs of its row NaN from there on.

Source: Vaswani et al. 2017, "Attention is all you need", section 3.2; Ainslie et al. 2023, "GQA"
(grouped heads); Su et al. 2021, "RoFormer" (rotary positions); Henry et al. 2020 and Dehghani et
al. 2023 (QK-norm); Beltagy et al. 2020, "Longformer" (sliding window).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear, RMSNorm
from seqarch.mixers.base import SequenceMixer
from seqarch.ops.attention import FORMS
from seqarch.ops.blockwise import NOTHING, Partial, merge
from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.numerics import segments, valid_tokens
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Bool, DTypeLike, Float, Int


class KVCache(NamedTuple):
    """A cache that holds token p of the current document in slot p, or, as a ring, in slot p mod S.

    position: the position of the token in each slot; -1 where the slot is empty
    length: tokens of the current document so far, which is the next position

    Heads come before slots, so that a block of slots is a contiguous matrix. XLA on CPU, which has
    no bfloat16 scatter, converts a whole bfloat16 cache to float32 around each write.
    """

    k: Float[Array, "B G S K"]
    v: Float[Array, "B G S K"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]


class Attention(SequenceMixer):
    """Softmax attention.

    heads: number H of query heads
    kv_heads: number G of key and value heads; None: H
    window: number of tokens that a token sees, itself included; None: all up to itself
    rope: base of the rotary frequencies; None: no positions
    qk_norm: whether queries and keys are normalised
    method: a form of ops.attention; "auto": the best one on the device
    block: keys per block of the blockwise form
    state_dtype: dtype of the cache of keys and values; None: that of the computation
    """

    forms, state_option = FORMS, "window"
    state_axes = KVCache(
        k=("batch", "heads", None, None),
        v=("batch", "heads", None, None),
        position=("batch", None),
        length=("batch",),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        window: int | None = None,
        rope: float | None = 10_000.0,
        qk_norm: bool = False,
        method: str = "auto",
        block: int = 512,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        kv_heads = kv_heads or heads
        if dim % heads or heads % kv_heads or (rope and dim // heads % 2):
            raise UserError(
                f"attention: dim {dim}, heads {heads}, kv_heads {kv_heads}; heads must divide "
                "dim, kv_heads must divide heads, and with rope a head must have an even number "
                "of channels"
            )
        if window is not None and window < 1:
            raise UserError(
                f"attention: window is {window}; give a number of tokens of at least 1, or None "
                "for all"
            )
        if rope is not None and not rope > 0:
            raise UserError(
                f"attention: rope is {rope}; give a base above 0, or None for no positions"
            )
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.window, self.rope, self.dtype = window, rope, dtype
        self.method, self.block = method, block
        self.state_dtype = state_dtype or dtype
        projection = partial(Linear, dim, axes=("embed", "heads"), rngs=rngs, dtype=dtype)
        self.q = projection(dim)
        self.k = projection(kv_heads * self.head_dim)
        self.v = projection(kv_heads * self.head_dim)
        self.q_norm = RMSNorm(self.head_dim, rngs=rngs) if qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, rngs=rngs) if qk_norm else None
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs, dtype=dtype, residual=True)

    @property
    def constant_state(self):
        return self.window is not None

    def init_state(self, batch, max_len):
        slots = max_len if self.window is None else min(self.window, max_len)
        shape = (batch, self.kv_heads, slots, self.head_dim)
        k, v = jnp.zeros(shape, self.state_dtype), jnp.zeros(shape, self.state_dtype)
        return KVCache(k, v, jnp.full((batch, slots), -1, jnp.int32), jnp.zeros(batch, jnp.int32))

    def room(self, state, *, fresh=False):
        slots = state.k.shape[2]
        if slots == self.window:
            return None
        return slots - (jnp.zeros_like(state.length) if fresh else state.length)

    def prefill(self, x, state, starts=None, lengths=None):
        (B, T), slots = x.shape[:2], state.k.shape[2]
        if 0 < slots < T and slots != self.window and starts is None and lengths is None:
            raise UserError(
                f"{T} tokens do not fit a key/value cache of {slots}; give init_state a larger "
                "max_len"
            )
        valid, packed = valid_tokens(lengths, B, T), starts is not None
        starts = starts & valid if packed else jnp.zeros((B, T), bool)
        segment, position = segments(starts), jnp.where(valid, _positions(starts, state.length), -1)
        q, k, v = self._project(x, position)
        at = Places(position, segment)
        new = FORMS.pick(self.method)(q, k, v, at, at, Rule(True, self.window), block=self.block)
        y, count = new.o, valid.sum(1, dtype=jnp.int32)
        if slots:
            old = self._attend_cache(q, at, state)
            y, count = self._poison(merge(old, new), position, slots), _after(old, count)
        else:  # without slots, a document that began before this call cannot continue
            y = jnp.where((position > jnp.arange(T)[None])[:, :, None, None], jnp.nan, y)
        last = jnp.take_along_axis(segment, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
        document = jnp.where(count > 0, last, 0)
        state = _forget(state, document > 0) if packed else state
        state = self._write(state, k, v, position, segment == document[:, None], count)
        return self.out(y.reshape(B, T, -1)), state

    def step(self, x, state):
        if not state.k.shape[2]:
            raise UserError(
                "a step needs a key/value cache with slots; give init_state a max_len of at least 1"
            )
        position = state.length[:, None]
        q, k, v = self._project(x[:, None], position)
        one = jnp.ones_like(state.length)
        state = self._write(state, k, v, position, jnp.ones_like(position, bool), one)
        y = self._attend_cache(q, Places(position, jnp.zeros_like(position)), state).o
        y = self._poison(y, position, state.k.shape[2])
        return self.out(y.reshape(x.shape[0], -1)), state

    def _attend_cache(self, q: Float[Array, "B T H K"], at: Places, state: KVCache) -> Partial:
        return cache_attention(
            q, state.k, state.v, at, state.position, state.length.max(), self.window
        )

    def _poison(self, y: Float[Array, "B T H K"], position: Int[Array, "B T"], slots: int) -> Array:
        """Returns `y` with NaN for tokens without a slot, which would see only a part of theirs."""
        if slots == self.window:
            return y
        return jnp.where((position >= slots)[:, :, None, None], jnp.nan, y)

    def _project(self, x: Float[Array, "B T D"], position: Int[Array, "B T"]):
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.head_dim) for p in (self.q, self.k, self.v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q, k = ops.rope(q, position, self.rope), ops.rope(k, position, self.rope)
        return q, k, v

    def _write(
        self, state: KVCache, k, v, position, current: Bool[Array, "B T"], count: Int[Array, "B"]
    ) -> KVCache:
        """Returns the cache after the first `count` new tokens.

        Only those of the `current` document are kept.
        """
        slots, rows = state.k.shape[2], jnp.arange(k.shape[0])
        last = position[rows, jnp.maximum(count - 1, 0)]
        length = jnp.where(count > 0, last + 1, state.length)
        if not slots:
            return state._replace(length=length)
        keep = (position >= 0) & current
        if slots == self.window:
            slot = jnp.where(keep & (position >= length[:, None] - slots), position % slots, slots)
        else:
            slot = jnp.where(keep, position, slots)  # beyond the last slot `_put` drops the token
        places = state.position.at[rows[:, None], slot].set(position, mode="drop")
        return KVCache(_put(state.k, k, slot), _put(state.v, v, slot), places, length)


def _put(
    cache: Float[Array, "B G S K"], new: Float[Array, "B T G K"], slot: Int[Array, "B T"]
) -> Array:
    """Returns `cache` with each token in its slot; tokens beyond the last slot are dropped.

    Every head has an index of its own: with a shared one, TPUs copy the cache, and prefill on v5e
    with 262,144 slots of two heads of 128 has 131 MiB of temporaries instead of none. A single
    token has a shared index, with which it is a dynamic_update_slice: with indices of their own,
    narrow heads are copied, and a decoding step of four layers with 65,536 slots of four heads of
    64 has 449 MiB instead of none.
    """
    B, T, G, _ = new.shape
    row, new = jnp.arange(B)[:, None], new.astype(cache.dtype)
    if B * T == 1:
        return cache.at[row, :, slot].set(new, mode="drop")
    return cache.at[row[..., None], jnp.arange(G)[:, None], slot[:, None]].set(
        new.swapaxes(1, 2), mode="drop"
    )


def _after(read: Partial, count: Int[Array, "B"]) -> Int[Array, "B"]:
    """Returns `count`, but so that it depends on `read` for XLA.

    The condition below never holds, also for NaN, which XLA does not know. So the cache is written
    after it was read; otherwise XLA on CPU would copy the cache to read from.
    """
    return jnp.where((read.log_total < NOTHING).any((1, 2)), 0, count)


def _forget(state: KVCache, rows: Bool[Array, "B"]) -> KVCache:
    """Returns `state` with the slots of `rows` empty, where a new document has begun."""
    k, v = _zero((state.k, state.v), rows)
    return state._replace(k=k, v=v, position=jnp.where(rows[:, None], -1, state.position))


@jax.custom_vjp
def _zero(caches: tuple[Float[Array, "B G S K"], ...], rows: Bool[Array, "B"]) -> tuple[Array, ...]:
    """Returns `caches` with zeros in `rows`; the function is linear and its own transpose.

    It is a loop of one turn or none, because the branches of a `cond` copy whole caches on GPUs.
    Such a loop has no reverse mode, hence the custom one.
    """

    def zero(_, caches):
        return jax.tree.map(lambda x: jnp.where(rows[:, None, None, None], 0, x), caches)

    return jax.lax.fori_loop(0, rows.any().astype(jnp.int32), zero, caches)


_zero.defvjp(
    lambda caches, rows: (_zero(caches, rows), rows), lambda rows, d: (_zero(d, rows), None)
)


def _positions(starts: Bool[Array, "B T"], length: Int[Array, "B"]) -> Int[Array, "B T"]:
    """Each token's position in its document; those before the first start continue the state's."""
    index = jnp.arange(starts.shape[1])[None]
    begun = jax.lax.cummax(jnp.where(starts, index, -1), axis=1)
    return jnp.where(begun < 0, length[:, None] + index, index - begun)
