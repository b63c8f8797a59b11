"""The delta rule with no decay or one per head, by Pallas kernels for TPUs.

A turn of the grid takes some heads of a row through a block of tokens, and their states stay in the
core's memory until the row ends. For the backward pass only the states that enter blocks are kept;
what chunks erase is computed again. Blocks are of 128 tokens, whatever an op's `chunk` says.

Values in bfloat16 are multiplied with numbers in two parts (seqarch/ops/kernels/parts.py), so that
states and gradients have 16 bits; values in float32 are multiplied in float32.

Source: Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence
length", section 3; Yang et al. 2025, "Gated delta networks: improving Mamba2 with delta rule",
section 3.3 (decay per head).
"""

import functools

import jax
import jax.numpy as jnp

from seqarch.ops.kernels.delta_rule_calls import backward, forward
from seqarch.ops.kernels.delta_rule_heads import chunk_size, unit_rows
from seqarch.ops.kernels.lanes import by_head, in_lanes, layout_of, padded, padded_state, unread
from seqarch.ops.kernels.linear_attention import (
    call_by_rows,
    has_tiles,
    log_decays,
    packed,
    unpacked,
)
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.ops.matrix_chunks import Tokens
from seqarch.ops.numerics import fill
from seqarch.types import Array, Float


def takes(tokens: Tokens, otherwise: str) -> bool:
    """Returns whether the kernels compute a recurrence.

    They erase at the keys that write, and decays are per head and not negative. Where only the
    shapes are the cause a line says so, once.

    Args:
      tokens: of the recurrence.
      otherwise: the name of the form that computes it else.
    """
    per_head = tokens.log_decay is None or tokens.log_decay.ndim == 3
    if not per_head or tokens.r is None or tokens.p is not None or tokens.negative is not None:
        return False
    return has_tiles(tokens, otherwise, padded)


def delta_rule(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
    """
    layout, r, starts = layout_of(tokens), tokens.r, tokens.starts
    if starts is not None:
        r = unread(r, starts)
    q, k, r = (in_lanes(x, layout.key) for x in (tokens.q, tokens.k, r))
    v = in_lanes(tokens.v, layout.value)
    g = _log_decays(layout, tokens)
    o, S = _erase(layout, q, k, v, r, g, packed(layout, padded_state(layout, state), None))
    key, value = state.shape[2:]
    return by_head(o, tokens.v), unpacked(layout, S)[0][:, :, :key, :value]


def _log_decays(layout: Layout, tokens: Tokens) -> Float[Array, "B I M R L"] | None:
    """Returns the log-decays of chunks, a unit a row, its heads side by side."""
    g = log_decays(tokens)
    if g is None:
        return None
    g = fill(g, 1, CHUNK)
    shape = len(g), -1, chunk_size(layout), layout.turns, layout.together, layout.paired
    g = jnp.transpose(g.reshape(shape), (0, 3, 1, 4, 5, 2))
    return fill(g.reshape(*g.shape[:4], -1), 3, unit_rows(layout))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _erase(
    layout: Layout, q: Array, k: Array, v: Array, r: Array, g: Array | None, state: Array
) -> tuple[Array, Array]:
    return call_by_rows(functools.partial(forward, layout, keep=False), q, k, v, r, g, state)


def _erase_forward(layout: Layout, q, k, v, r, g, state):
    call = functools.partial(forward, layout, keep=True)
    *results, entering = call_by_rows(call, q, k, v, r, g, state)
    return tuple(results), (q, k, v, r, g, entering)


def _erase_backward(layout: Layout, kept, cotangents):
    gradients = call_by_rows(functools.partial(backward, layout), *kept, *cotangents)
    dq, dk, dv, dr, d_first, *dg = gradients
    return dq, dk, dv, dr, dg[0] if dg else None, d_first


_erase.defvjp(_erase_forward, _erase_backward)
