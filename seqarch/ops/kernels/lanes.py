"""Heads of tokens side by side in lanes, as kernels take them, with channels to fill registers."""

import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.linear_attention_layout import CHUNK, WIDEST, Layout
from seqarch.ops.matrix_chunks import Tokens
from seqarch.ops.numerics import behind, fill
from seqarch.types import Array, Bool, Float


def padded(channels: int) -> int:
    """Returns the channels of a head whose lanes fill registers, for more than half of one."""
    return channels if channels <= LANES // 2 else channels + -channels % LANES


def layout_of(tokens: Tokens, widest: int = WIDEST) -> Layout:
    """Returns the layout of heads.

    Args:
      tokens: of the recurrence.
      widest: lanes of a turn of the grid; half of them, for a v4's memory, if an array is in
        float32.
    """
    given = [x for x in (tokens.q, tokens.k, tokens.v, tokens.p, tokens.r) if x is not None]
    if any(x.dtype != jnp.bfloat16 for x in given):
        widest //= 2
    (_, _, heads, key), value = tokens.q.shape, tokens.v.shape[3]
    return Layout(heads, padded(key), padded(value), sums=False, widest=widest)


def in_lanes(x: Float[Array, "B T H X"], channels: int) -> Float[Array, "B M HY"]:
    """Returns the heads side by side, with zeros for more channels and for idle tokens behind."""
    x = fill(x, 3, channels)
    return fill(x.reshape(*x.shape[:2], -1), 1, CHUNK)


def by_head(x: Float[Array, "B M HY"], like: Float[Array, "B T H X"]) -> Float[Array, "B T H X"]:
    """Returns the array that `in_lanes` has made, of the shape of `like`."""
    batch, time, heads, channels = like.shape
    return x[:, :time].reshape(batch, time, heads, -1)[..., :channels]


def padded_state(layout: Layout, state: Float[Array, "B H K V"]) -> Float[Array, "B H KP VP"]:
    """Returns a state with zeros for the channels that a layout adds."""
    return fill(fill(state, 2, layout.key), 3, layout.value)


def unread(r: Float[Array, "B T H K"], starts: Bool[Array, "B T"]) -> Float[Array, "B T H K"]:
    """Returns the delta rule's reads, 0 where the state is forgotten: that is not erased."""
    return jnp.where(behind(starts, r), jnp.zeros((), r.dtype), r)
