"""Heads and their decays within a chunk of linear attention, as its kernels see them."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.types import Array, Bool, Float

NEVER = -1e30  # a logarithm of 0
# Log-decays of at least -128 on this grid are two numbers in bfloat16, and any sum of a chunk's is
# exact in float32.
GRID = 2.0**-10


class HeadLanes:
    """Which lanes are those of which head, in a unit and in its state."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.row, self.column = (iota((CHUNK, CHUNK), axis) for axis in (ROWS, COLUMNS))
        self.causal = self.column <= self.row

    def visible(self, scores: Float[Array, "C C"]) -> Float[Array, "C C"]:
        """Returns the scores of keys that are not later than the query, else 0."""
        return jnp.where(self.causal, scores, 0.0)

    def with_ones(self, unit: int, v: Float[Array, "C V"]) -> Array:
        """Returns values with a register of ones in their heads' lanes, where there are sums."""
        if not self.layout.sums:
            return v
        lane = iota((len(v), LANES), COLUMNS)
        first = unit * self.layout.paired
        ones = jnp.where((lane >= first) & (lane < first + self.layout.paired), 1.0, 0.0)
        return jnp.concatenate([v, ones.astype(v.dtype)], 1)

    def only_keys(self, head: int, x: Float[Array, "C K"]) -> Array:
        """Returns keys with the lanes of other heads set to 0."""
        if self.layout.paired == 1:
            return x
        return only(lambda shape: is_head(shape, self.layout.key, head), x)

    def only_values(self, unit: int, head: int, x: Float[Array, "C V"]) -> Array:
        """Returns values, with the sums' lanes, with the lanes of other heads set to 0."""
        if self.layout.paired == 1 and not self.layout.sums:
            return x
        return only(lambda shape: self._is_values_head(shape, unit, head), x)

    def merge_keys(self, parts: Sequence[Float[Array, "C K"]]) -> Float[Array, "C K"]:
        """Returns of each head its own lanes of keys."""
        if self.layout.paired == 1:
            return parts[0]
        return jnp.where(is_head(parts[0].shape, self.layout.key, 0), *parts)

    def merge_values(self, unit: int, parts: Sequence[Float[Array, "C V"]]) -> Float[Array, "C V"]:
        """Returns of each head its own lanes of values."""
        if self.layout.paired == 1:
            return parts[0]
        return jnp.where(self._is_values_head(parts[0].shape, unit, 0), *parts)

    def blocks(self, unit: int, S: Float[Array, "K V"]) -> Array:
        """Returns a state with 0 between the keys of one head and the values of another."""
        if self.layout.paired == 1 and not self.layout.sums:
            return S
        kept = None
        for j in range(self.layout.paired):
            rows = is_head(S.shape, self.layout.key, j, ROWS)
            block = rows & self._is_values_head(S.shape, unit, j)
            kept = block if kept is None else kept | block
        return jnp.where(kept, S, 0.0)

    def collect_keys(self, unit: int, x: Float[Array, "C K"], into: Float[Array, "C L"]) -> Array:
        """Returns `into` with the sums of x over each head's keys in the lane of the head."""
        for j in range(self.layout.paired):
            total = self.only_keys(j, x).sum(1, keepdims=True)
            lane = iota(into.shape, COLUMNS)
            into = jnp.where(lane == unit * self.layout.paired + j, total, into)
        return into

    def collect_values(self, unit: int, x: Float[Array, "1 V"]) -> Float[Array, "1 L"]:
        """Returns the sums of x over each head's values in the lane of the head, else 0."""
        found = jnp.zeros((len(x), LANES), jnp.float32)
        for j in range(self.layout.paired):
            total = self.only_values(unit, j, x).sum(1, keepdims=True)
            lane = iota(found.shape, COLUMNS)
            found = jnp.where(lane == unit * self.layout.paired + j, total, found)
        return found

    def by_values(self, unit: int, x: Float[Array, "C L"]) -> Float[Array, "C V"]:
        """Returns numbers per head, given in the heads' lanes, in the lanes of their values."""
        layout, first = self.layout, unit * self.layout.paired
        shape = (len(x), layout.values)
        wide = jnp.broadcast_to(x[:, first : first + 1], shape)
        if layout.paired == 2:
            wide = jnp.where(is_head(shape, layout.value, 0), wide, x[:, first + 1 : first + 2])
        return jnp.concatenate([wide, x], 1) if layout.sums else wide

    def _is_values_head(self, shape: tuple[int, int], unit: int, head: int) -> Bool[Array, "C V"]:
        lane, layout = iota(shape, COLUMNS), self.layout
        own = is_head(shape, layout.value, head)
        return own | (lane == layout.values + unit * layout.paired + head) if layout.sums else own


class HeadDecays:
    """The decays within a chunk, from the log-decays [R, C], a head a row.

    Cumulative sums G are of two parts, as in seqarch/ops/decay.py. Later they are columns, a head
    a lane.
    """

    def __init__(self, g: Float[Array, "R C"], heads: HeadLanes):
        self.heads = heads
        until = jnp.where(heads.row <= heads.column, 1.0, 0.0).astype(jnp.bfloat16)
        coarse = jnp.floor(g / GRID + 0.5) * GRID
        self.rows = _sums(coarse, until), _sums(g - coarse, until)
        self.columns = coarse, fine = [columns(part) for part in self.rows]
        self.since_first = jnp.exp(coarse + fine)
        last = slice(CHUNK - 1, CHUNK)
        self.until_last = jnp.exp((coarse[last] - coarse) + (fine[last] - fine))

    def between(self, unit: int, head: int) -> Float[Array, "C C"]:
        """Returns the decays from keys to later queries, else 0, of a unit's head."""
        lane = unit * self.heads.layout.paired + head
        at = slice(lane, lane + 1)
        coarse, fine = (x[:, at] - y[at] for x, y in zip(self.columns, self.rows))
        return jnp.exp(jnp.where(self.heads.causal, coarse + fine, NEVER))

    def entering(self, unit: int) -> Float[Array, "C V"]:
        """Returns the decays of the state that enters the chunk until each token."""
        return self.heads.by_values(unit, self.since_first)

    def leaving(self, unit: int) -> Float[Array, "C V"]:
        """Returns the decays of each token until the end of the chunk."""
        return self.heads.by_values(unit, self.until_last)

    def over_chunk(self, unit: int) -> Float[Array, "1 V"]:
        """Returns the decay over the chunk."""
        return self.heads.by_values(unit, self.since_first[CHUNK - 1 :])


def columns(x: Float[Array, "R C"]) -> Float[Array, "C L"]:
    """Returns numbers of heads, a head a row, as columns, a head a lane."""
    return jnp.concatenate([x, jnp.zeros((LANES - len(x), CHUNK), x.dtype)]).T


def _sums(x: Float[Array, "R C"], until: Float[Array, "C C"]) -> Float[Array, "R C"]:
    """Returns the sums of x until each token, by products of its two halves in bfloat16."""
    high = x.astype(jnp.bfloat16)
    low = (x - high.astype(jnp.float32)).astype(jnp.bfloat16)
    return sum(product(part, until, COLUMNS, ROWS) for part in (high, low))


def is_head(shape: tuple[int, int], size: int, head: int, axis: int = COLUMNS) -> Array:
    """Returns which lanes, or rows, are those of a head of some channels."""
    index = iota(shape, axis)
    return (index >= head * size) & (index < (head + 1) * size)


def only(is_kept: Callable[[tuple[int, ...]], Array], x: Float[Array, "C X"]) -> Array:
    """Returns x where a function of its shape says so, else 0.

    Rows of bfloat16 are kept or not in pairs, as they lie in registers.
    """
    if x.dtype != jnp.bfloat16:
        return jnp.where(is_kept(x.shape), x, 0.0)
    pairs = pltpu.bitcast(x, jnp.uint32)
    kept = jnp.where(is_kept(pairs.shape), pairs, jnp.uint32(0))
    return pltpu.bitcast(kept, x.dtype)
