"""Mixers whose state is a cache with one slot per token: slots, writes, prefill and step.

Token p of a document is in slot p. With a window of w tokens and n sinks the cache is a ring: the
first n tokens are in slots 0 to n - 1, and a later token p in slot n + (p - n) mod w. A token
beyond the last slot makes the outputs of its row NaN from there on.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqarch.errors import UserError
from seqarch.mixers.base import SequenceMixer
from seqarch.ops.bias import Gates
from seqarch.ops.cache_slots import put
from seqarch.ops.numerics import behind, segments, valid_tokens
from seqarch.ops.online_softmax import NOTHING, Partial, merge
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Bool, Float, Int, State


class Projections(NamedTuple):
    """The projections of a call's tokens.

    q: queries
    cached: what goes to the arrays of the state with these names
    gates: cumulative log forget gates [B,T,H] from the call's first token on; None: none
    more: what a mixer hands to its own methods besides
    """

    q: Float[Array, "B T H K"]
    cached: dict[str, Float[Array, "B T G *K"] | Int[Array, "B T G *K"]]
    gates: Gates | None = None
    more: Any = None


class CachedMixer(SequenceMixer):
    """A mixer with a cache; a subclass projects, attends, and has the projection `out`.

    Its state is a NamedTuple with `position` [B,S], of the token in each slot and -1 where it is
    empty, `length` [B], the tokens of the current document so far, and the arrays [B,G,S,...] that
    `Projections.cached` names. Heads come before slots, so that a block of slots is a contiguous
    matrix. XLA on CPU, which has no bfloat16 scatter, converts a whole bfloat16 cache to float32
    around each write.

    Attributes:
      window: slots w of the ring; None: the cache is no ring.
      sink: tokens n that stay besides the window.
      document: further arrays of the state, which are zero where a document begins.
    """

    window: int | None = None
    sink: int = 0
    document: ClassVar[tuple[str, ...]] = ()

    def _project(self, x: Float[Array, "B T D"], at: Places, state: State) -> Projections:
        """Returns the projections; tokens of segment 0 continue the document of `state`."""
        raise AssertionError(f"{type(self).__name__} does not define _project")

    def _attend(self, tokens: Projections, at: Places, known: Rule) -> Partial:
        """Returns attention of a call's tokens to each other.

        known: a Rule with `order` and `alone`, and nothing else
        """
        raise AssertionError(f"{type(self).__name__} does not define _attend")

    def _attend_cache(self, tokens: Projections, at: Places, state: State) -> Partial:
        """Returns their attention to the cache."""
        raise AssertionError(f"{type(self).__name__} does not define _attend_cache")

    def _output(self, y: Float[Array, "B T H V"], x: Float[Array, "B T D"]) -> Array:
        """Returns the outputs [B,T,D], given attention's."""
        return self.out(y.reshape(*x.shape[:2], -1))

    @property
    def constant_state(self):
        return self.window is not None

    def _slots(self, max_len: int) -> int:
        return max_len if self.window is None else min(self.sink + self.window, max_len)

    def _is_ring(self, slots: int) -> bool:
        return self.window is not None and slots == self.sink + self.window

    def room(self, state, *, fresh=False):
        slots = state.position.shape[1]
        if self._is_ring(slots):
            return None
        return slots - (jnp.zeros_like(state.length) if fresh else state.length)

    def prefill(self, x, state, starts=None, lengths=None):
        (B, T), slots = x.shape[:2], state.position.shape[1]
        ring = self._is_ring(slots)
        if 0 < slots < T and not ring and starts is None and lengths is None:
            raise UserError(
                f"{T} tokens do not fit a key/value cache of {slots}; give init_state a larger "
                "max_len"
            )
        valid, packed = valid_tokens(lengths, B, T), starts is not None
        starts = starts & valid if packed else jnp.zeros((B, T), bool)
        segment, position = segments(starts), jnp.where(valid, _positions(starts, state.length), -1)
        at = Places(position, segment)
        tokens = self._project(x, at, state)
        order = "packed" if packed else "whole" if lengths is None else "padded"
        known = Rule(order=order, alone=not slots)
        new, count = self._attend(tokens, at, known), valid.sum(1, dtype=jnp.int32)
        if slots:
            old = self._attend_cache(tokens, at, state)
            y, count = self._poison(merge(old, new).o, position, slots), _after(old, count)
        else:  # without slots, a document that began before this call cannot continue
            y = jnp.where((position > jnp.arange(T)[None])[:, :, None, None], jnp.nan, new.o)
        last = jnp.take_along_axis(segment, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
        document = jnp.where(count > 0, last, 0)
        if packed:
            state = _forget(state, (*tokens.cached, *self.document), document > 0)
        state = self._write(state, tokens, position, segment == document[:, None], count)
        return self._output(y, x), state

    def step(self, x, state):
        if not state.position.shape[1]:
            raise UserError(
                "a step needs a key/value cache with slots; give init_state a max_len of at least 1"
            )
        position = state.length[:, None]
        at = Places(position, jnp.zeros_like(position))
        tokens = self._project(x[:, None], at, state)
        one = jnp.ones_like(state.length)
        state = self._write(state, tokens, position, jnp.ones_like(position, bool), one)
        y = self._attend_cache(tokens._replace(gates=None), at, state).o
        y = self._poison(y, position, state.position.shape[1])
        return self._output(y, x[:, None])[:, 0], state

    def _poison(self, y: Float[Array, "B T H V"], position: Int[Array, "B T"], slots: int) -> Array:
        """Returns `y` with NaN for tokens without a slot, which would see only a part of theirs."""
        if self._is_ring(slots):
            return y
        return jnp.where((position >= slots)[:, :, None, None], jnp.nan, y)

    def _write(
        self,
        state: State,
        tokens: Projections,
        position: Int[Array, "B T"],
        current: Bool[Array, "B T"],
        count: Int[Array, "B"],
    ) -> State:
        """Returns the cache after the first `count` new tokens.

        Only those of the `current` document are kept.
        """
        slots, rows = state.position.shape[1], jnp.arange(position.shape[0])
        last = position[rows, jnp.maximum(count - 1, 0)]
        length = jnp.where(count > 0, last + 1, state.length)
        if not slots:
            return state._replace(length=length)
        keep, slot = (position >= 0) & current, position
        if self._is_ring(slots):
            n, w = self.sink, self.window
            keep &= (position < n) | (position >= length[:, None] - w)
            slot = jnp.where(position < n, position, n + (position - n) % w)
        slot = jnp.where(keep, slot, slots)  # beyond the last slot `put` drops the token
        places = state.position.at[rows[:, None], slot].set(position, mode="drop")
        run = not self._is_ring(slots)
        write = lambda name, new: put(getattr(state, name), new, slot, run=run)
        cached = {name: write(name, new) for name, new in tokens.cached.items()}
        return state._replace(**cached, position=places, length=length)


def no_tokens(batch: int, slots: int) -> dict[str, Int[Array, "..."]]:
    """Returns the fields `position` and `length` of an empty cache."""
    position = jnp.full((batch, slots), -1, jnp.int32)
    return dict(position=position, length=jnp.zeros(batch, jnp.int32))


def _after(read: Partial, count: Int[Array, "B"]) -> Int[Array, "B"]:
    """Returns `count`, but so that it depends on `read` for XLA.

    The condition below never holds, also for NaN, which XLA does not know. So the cache is written
    after it was read; otherwise XLA on CPU would copy the cache to read from.
    """
    return jnp.where((read.log_total < NOTHING).any((1, 2)), 0, count)


def _forget(state: State, names: tuple[str, ...], rows: Bool[Array, "B"]) -> State:
    """Returns `state` with the slots of `rows` empty, where a new document has begun."""
    arrays = {name: getattr(state, name) for name in names}
    floats = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    zeros = dict(zip(floats, _zero(tuple(floats.values()), rows), strict=True))
    whole = {name: x for name, x in arrays.items() if name not in floats}
    zeros |= {name: jnp.where(behind(rows, x), 0, x) for name, x in whole.items()}
    position = jnp.where(rows[:, None], -1, state.position)
    return state._replace(**zeros, position=position)


@jax.custom_vjp
def _zero(caches: tuple[Array, ...], rows: Bool[Array, "B"]) -> tuple[Array, ...]:
    """Returns `caches` with zeros in `rows`; the function is linear and its own transpose.

    It is a loop of one turn or none, because the branches of a `cond` copy whole caches on GPUs.
    Such a loop has no reverse mode, hence the custom one.
    """

    def zero(_, caches):
        return jax.tree.map(lambda x: jnp.where(behind(rows, x), 0, x), caches)

    with jax.named_scope("at_most_1_trips"):  # tells seqarch.flops and seqarch.costs.trips
        return jax.lax.fori_loop(0, rows.any().astype(jnp.int32), zero, caches)


_zero.defvjp(
    lambda caches, rows: (_zero(caches, rows), rows), lambda rows, d: (_zero(d, rows), None)
)


def _positions(starts: Bool[Array, "B T"], length: Int[Array, "B"]) -> Int[Array, "B T"]:
    """Each token's position in its document; those before the first start continue the state's."""
    index = jnp.arange(starts.shape[1])[None]
    begun = jax.lax.cummax(jnp.where(starts, index, -1), axis=1)
    return jnp.where(begun < 0, length[:, None] + index, index - begun)
