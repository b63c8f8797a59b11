"""Linear attention with a decay per key channel, by Pallas kernels for TPUs.

A turn of the grid takes some heads of a row through a block of tokens, and their states stay in the
core's memory until the row ends. For the backward pass only the states that enter blocks are kept.
Blocks are of 128 tokens, whatever an op's `chunk` says.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4.
"""

import functools

import jax
import jax.numpy as jnp

from seqarch.ops.kernels.channel_decay_calls import backward, forward, transposed
from seqarch.ops.kernels.lanes import by_head, in_lanes, layout_of, padded, padded_state
from seqarch.ops.kernels.linear_attention import (
    call_by_rows,
    clamped,
    filled,
    has_tiles,
    packed,
    unpacked,
)
from seqarch.ops.kernels.linear_attention_layout import Layout
from seqarch.ops.matrix_chunks import Tokens
from seqarch.types import Array, Float


def takes(tokens: Tokens, otherwise: str) -> bool:
    """Returns whether the kernels compute a recurrence.

    They do not erase, and decays are per key channel and not negative. Where only the shapes are
    the cause a line says so, once.

    Args:
      tokens: of the recurrence.
      otherwise: the name of the form that computes it else.
    """
    per_channel = tokens.log_decay is not None and tokens.log_decay.ndim == 4
    if not per_channel or tokens.r is not None or tokens.negative is not None:
        return False
    return has_tiles(tokens, otherwise, padded)


def linear_attention(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
    """
    layout = layout_of(tokens)
    q, k, g = (in_lanes(x, layout.key) for x in (tokens.q, tokens.k, tokens.log_decay))
    v, starts = in_lanes(tokens.v, layout.value), tokens.starts
    if starts is not None:
        starts = filled(starts, v.shape[1] - starts.shape[1])
    first = jnp.swapaxes(padded_state(layout, state), 2, 3)
    o, S = _attend(layout, q, k, v, g, packed(transposed(layout), first, None), starts)
    S = jnp.swapaxes(unpacked(transposed(layout), S)[0], 2, 3)
    key, value = state.shape[2:]
    return by_head(o, tokens.v), S[:, :, :key, :value]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    layout: Layout, q: Array, k: Array, v: Array, g: Array, state: Array, starts: Array | None
) -> tuple[Array, Array]:
    call = functools.partial(forward, layout, keep=False)
    return call_by_rows(call, q, k, v, clamped(g, starts), state)


def _attend_forward(layout: Layout, q, k, v, g, state, starts):
    call, g = functools.partial(forward, layout, keep=True), clamped(g, starts)
    *results, entering = call_by_rows(call, q, k, v, g, state)
    return tuple(results), (q, k, v, g, entering)


def _attend_backward(layout: Layout, kept, cotangents):
    gradients = call_by_rows(functools.partial(backward, layout), *kept, *cotangents)
    return *gradients, None


_attend.defvjp(_attend_forward, _attend_backward)
