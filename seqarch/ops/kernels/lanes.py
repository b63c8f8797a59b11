"""Heads of tokens side by side in lanes, as kernels take them, with channels to fill registers."""

import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.linear_attention import filled
from seqarch.ops.kernels.linear_attention_layout import CHUNK, WIDEST, Layout
from seqarch.ops.matrix_chunks import Tokens
from seqarch.types import Array, Float


def padded(channels: int) -> int:
    """Returns the channels of a head whose lanes fill registers, for more than half of one."""
    return channels if channels <= LANES // 2 else channels + -channels % LANES


def layout_of(tokens: Tokens) -> Layout:
    """Returns the layout of heads, with half of the usual lanes if an array is in float32.

    That is for the memory of a v4.
    """
    given = [x for x in (tokens.q, tokens.k, tokens.v, tokens.p, tokens.r) if x is not None]
    half = all(x.dtype == jnp.bfloat16 for x in given)
    (_, _, heads, key), value = tokens.q.shape, tokens.v.shape[3]
    widest = WIDEST if half else WIDEST // 2
    return Layout(heads, padded(key), padded(value), sums=False, widest=widest)


def in_lanes(x: Float[Array, "B T H X"], channels: int) -> Float[Array, "B M HY"]:
    """Returns the heads side by side, with zeros for more channels and for idle tokens behind."""
    x = _with_channels(x, channels)
    return filled(x.reshape(*x.shape[:2], -1), -x.shape[1] % CHUNK)


def by_head(x: Float[Array, "B M HY"], like: Float[Array, "B T H X"]) -> Float[Array, "B T H X"]:
    """Returns the array that `in_lanes` has made, of the shape of `like`."""
    batch, time, heads, channels = like.shape
    return x[:, :time].reshape(batch, time, heads, -1)[..., :channels]


def padded_state(layout: Layout, state: Float[Array, "B H K V"]) -> Float[Array, "B H KP VP"]:
    """Returns a state with zeros for the channels that a layout adds."""
    state = jnp.swapaxes(_with_channels(state, layout.value), 2, 3)
    return jnp.swapaxes(_with_channels(state, layout.key), 2, 3)


def _with_channels(x: Float[Array, "B T H X"], size: int) -> Float[Array, "B T H Y"]:
    rest = size - x.shape[3]
    return jnp.pad(x, [(0, 0)] * 3 + [(0, rest)]) if rest else x
