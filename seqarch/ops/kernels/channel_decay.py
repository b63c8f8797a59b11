"""Linear attention and the delta rule with a decay per key channel, by Pallas kernels for TPUs.

A turn of the grid takes some heads of a row through a block of tokens, and their states stay in the
core's memory until the row ends. For the backward pass only the states that enter blocks are kept.
Blocks are of 128 tokens, whatever an op's `chunk` says. Without the delta rule, values in bfloat16
are multiplied with rounded numbers; with it, as in seqarch/ops/kernels/delta_rule.py.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4; Kimi Team 2025, "Kimi Linear: an expressive, efficient attention architecture", section 3
(the delta rule).
"""

import functools

import jax
import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.channel_decay_calls import backward, forward, transposed
from seqarch.ops.kernels.lanes import by_head, in_lanes, layout_of, padded, padded_state, unread
from seqarch.ops.kernels.linear_attention import (
    call_by_rows,
    clamped,
    has_tiles,
    packed,
    unpacked,
)
from seqarch.ops.kernels.linear_attention_layout import CHUNK, WIDEST, Layout, fits
from seqarch.ops.matrix_chunks import Tokens
from seqarch.ops.numerics import fill
from seqarch.types import Array, Float


def takes(tokens: Tokens, otherwise: str) -> bool:
    """Returns whether the kernels compute a recurrence.

    Decays are per key channel and not negative. Where only the shapes are the cause a line says so,
    once.

    Args:
      tokens: of the recurrence.
      otherwise: the name of the form that computes it else.
    """
    per_channel = tokens.log_decay is not None and tokens.log_decay.ndim == 4
    if not per_channel or tokens.negative is not None:
        return False
    return has_tiles(tokens, otherwise, padded, _fits)


def linear_attention(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
    """
    starts, r = tokens.starts, tokens.r
    layout = layout_of(tokens, WIDEST if r is None else WIDEST // 2)
    if starts is not None and r is not None:
        r = unread(r, starts)
    keys = dict(q=tokens.q, k=tokens.k, v=tokens.v, g=tokens.log_decay)
    if r is not None:  # nothing is erased at p without r
        keys |= dict(r=r) if tokens.p is None else dict(p=tokens.p, r=r)
    flat = {
        name: in_lanes(x, layout.value if name == "v" else layout.key) for name, x in keys.items()
    }
    if starts is not None:
        starts = fill(starts, 1, CHUNK)
    first = jnp.swapaxes(padded_state(layout, state), 2, 3)
    o, S = _attend(layout, flat, packed(transposed(layout), first, None), starts)
    S = jnp.swapaxes(unpacked(transposed(layout), S)[0], 2, 3)
    key, value = state.shape[2:]
    return by_head(o, tokens.v), S[:, :, :key, :value]


def _fits(heads: int, key: int, value: int) -> bool:
    """Returns whether heads fill registers, and what a chunk of them needs fits a v4's memory."""
    layout = Layout(heads, key, value, sums=False)
    small = layout.keys <= LANES and layout.values <= 2 * LANES
    return small and fits(heads, key, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    layout: Layout, tokens: dict[str, Array], state: Array, starts: Array | None
) -> tuple[Array, Array]:
    call = functools.partial(forward, layout, keep=False)
    return call_by_rows(call, _clamped(tokens, starts), state)


def _attend_forward(layout: Layout, tokens, state, starts):
    call, tokens = functools.partial(forward, layout, keep=True), _clamped(tokens, starts)
    *results, entering = call_by_rows(call, tokens, state)
    return tuple(results), (tokens, entering)


def _attend_backward(layout: Layout, kept, cotangents):
    *found, d_first = call_by_rows(functools.partial(backward, layout), *kept, *cotangents)
    return dict(zip(kept[0], found)), d_first, None


_attend.defvjp(_attend_forward, _attend_backward)


def _clamped(tokens: dict[str, Array], starts: Array | None) -> dict[str, Array]:
    return tokens | dict(g=clamped(tokens["g"], starts))
