"""Multi-head softmax attention (Vaswani et al. 2017, section 3.2) with grouped key/value heads
(Ainslie et al. 2023), rotary positions (Su et al. 2021), optional QK-norm (Henry et al. 2020;
Dehghani et al. 2023) and optional sliding window (Beltagy et al. 2020):

    y_t = O sum_s softmax_s(q_t . k_s / sqrt(K)) v_s        over 0 <= t - s < window

Its state is a cache of keys and values with a slot a token; a window's is a ring of `window` slots.
A token that finds no slot makes the outputs of its row NaN from there on.
"""

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
    """Token p of the current document stands in slot p, in a ring in slot p mod S.

    position: of the token in each slot; -1 where it is empty
    length: tokens of the current document so far, which is the next position

    Heads come before slots, so that a block of slots is a matrix as it stands. In bfloat16 XLA on
    CPU, which has no such scatter, widens the whole cache around each write.
    """

    k: Float[Array, "B G S K"]
    v: Float[Array, "B G S K"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]


class Attention(SequenceMixer):
    """Softmax attention.

    heads: H
    kv_heads: heads G of keys and values; None: H
    window: tokens that a token sees, itself among them; None for all before it
    rope: base of the rotary frequencies; None for no positions
    qk_norm: normalise queries and keys
    method: a form of ops.attention; "auto": the one that is best on the device
    block: keys per block of the blockwise form
    state_dtype: of the cache of keys and values; None: that of the computation
    """

    forms = FORMS
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
                "dim, kv_heads must divide "
                f"heads, and with rope a head must have an even number of channels"
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
        self.heads, self.kv_heads, self.head_dim, self.window = (
            heads,
            kv_heads,
            dim // heads,
            window,
        )
        self.rope, self.method, self.block, self.dtype = rope, method, block, dtype
        self.state_dtype = state_dtype or dtype
        self.q = Linear(dim, dim, ("embed", "heads"), rngs=rngs, dtype=dtype)
        self.k, self.v = (
            Linear(dim, kv_heads * self.head_dim, ("embed", "heads"), rngs=rngs, dtype=dtype)
            for _ in range(2)
        )
        self.q_norm = RMSNorm(self.head_dim, rngs=rngs) if qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, rngs=rngs) if qk_norm else None
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs, dtype=dtype, residual=True)

    @property
    def constant_state(self):
        return self.window is not None

    def init_state(self, batch, max_len):
        slots = max_len if self.window is None else min(self.window, max_len)
        k, v = (
            jnp.zeros((batch, self.kv_heads, slots, self.head_dim), self.state_dtype)
            for _ in range(2)
        )
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
        else:  # nothing is kept, so a document that began before this call cannot go on
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
        """`y`, with NaN for the tokens that no slot is left for, rather than attention to a part of
        the document.
        """
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
        """The cache after the first `count` new tokens, of which those of the `current` document
        are kept.
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
            slot = jnp.where(
                keep, position, slots
            )  # beyond the last slot: dropped, where it would clamp and destroy
        places = state.position.at[rows[:, None], slot].set(position, mode="drop")
        return KVCache(_put(state.k, k, slot), _put(state.v, v, slot), places, length)


def _put(
    cache: Float[Array, "B G S K"], new: Float[Array, "B T G K"], slot: Int[Array, "B T"]
) -> Array:
    """`cache` with each token in its slot, or dropped where that is beyond the last one.

    Every head has an index of its own, since TPUs copy the cache if all share one: prefill on v5e
    with 262,144 slots of two heads of 128 has 131 MiB of temporaries then, else none. A single
    token is a dynamic_update_slice if they share one, and if
    not it copies narrow heads: a decoding step of four layers with 65,536 slots of four heads of 64
      has 449 MiB, else none.
    """
    B, T, G, _ = new.shape
    row, new = jnp.arange(B)[:, None], new.astype(cache.dtype)
    if B * T == 1:
        return cache.at[row, :, slot].set(new, mode="drop")
    return cache.at[row[..., None], jnp.arange(G)[:, None], slot[:, None]].set(
        new.swapaxes(1, 2), mode="drop"
    )


def _after(read: Partial, count: Int[Array, "B"]) -> Int[Array, "B"]:
    """`count`, by a condition that always holds, which XLA can't know: what is written to a cache
    depends on what was read from it. Else XLA on CPU would keep a copy to read from. NaN fulfils
    the condition too, so that positions go on.
    """
    return jnp.where((read.log_total < NOTHING).any((1, 2)), 0, count)


def _forget(state: KVCache, rows: Bool[Array, "B"]) -> KVCache:
    """`state` with the slots of `rows` empty: a new document has begun there."""
    k, v = _zero((state.k, state.v), rows)
    return state._replace(k=k, v=v, position=jnp.where(rows[:, None], -1, state.position))


@jax.custom_vjp
def _zero(caches: tuple[Float[Array, "B G S K"], ...], rows: Bool[Array, "B"]) -> tuple[Array, ...]:
    """`caches` with zeros in `rows`; linear, and its own transpose.

    A loop of one turn, or none: the branches of a `cond` are copies, on GPUs of whole caches. Such
      a loop has no reverse mode.
    """
    zero = lambda _, caches: jax.tree.map(
        lambda x: jnp.where(rows[:, None, None, None], 0, x), caches
    )
    return jax.lax.fori_loop(0, rows.any().astype(jnp.int32), zero, caches)


_zero.defvjp(
    lambda caches, rows: (_zero(caches, rows), rows), lambda rows, d: (_zero(d, rows), None)
)


def _positions(starts: Bool[Array, "B T"], length: Int[Array, "B"]) -> Int[Array, "B T"]:
    """Each token's position in its document; those before the first start continue the state's."""
    index = jnp.arange(starts.shape[1])[None]
    begun = jax.lax.cummax(jnp.where(starts, index, -1), axis=1)
    return jnp.where(begun < 0, length[:, None] + index, index - begun)
