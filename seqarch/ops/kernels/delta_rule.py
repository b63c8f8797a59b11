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

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.delta_rule_calls import backward, forward
from seqarch.ops.kernels.delta_rule_heads import chunk_size, unit_rows
from seqarch.ops.kernels.linear_attention import (
    call_by_rows,
    filled,
    has_tiles,
    log_decays,
    packed,
    unpacked,
)
from seqarch.ops.kernels.linear_attention_layout import CHUNK, WIDEST, Layout
from seqarch.ops.matrix_chunks import Tokens
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
    return has_tiles(tokens, otherwise, _padded)


def delta_rule(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
    """
    starts, (key, value) = tokens.starts, state.shape[2:]
    q, k, r = (_with_channels(x, _padded(key)) for x in (tokens.q, tokens.k, tokens.r))
    v, state = (_with_channels(x, _padded(value)) for x in (tokens.v, state))
    state = jnp.swapaxes(_with_channels(jnp.swapaxes(state, 2, 3), _padded(key)), 2, 3)
    half = all(x.dtype == jnp.bfloat16 for x in (q, k, v, r))
    widest = WIDEST if half else WIDEST // 2  # for a v4's memory
    layout, time = Layout(*q.shape[2:], v.shape[3], sums=False, widest=widest), q.shape[1]
    rest, shape = -time % CHUNK, v.shape
    q, k, v, r = (x.reshape(*x.shape[:2], -1) for x in (q, k, v, r))
    if starts is not None:  # what is forgotten is not read
        r = jnp.where(starts[..., None], jnp.zeros((), r.dtype), r)
    q, k, v, r = (filled(x, rest) for x in (q, k, v, r))
    g = _log_decays(layout, tokens, rest)
    o, S = _erase(layout, q, k, v, r, g, packed(layout, state, None))
    S = unpacked(layout, S)[0][:, :, :key, :value]
    return o[:, :time].reshape(shape)[..., :value], S


def _padded(channels: int) -> int:
    """Returns the channels of a head whose lanes fill registers, for more than half of one."""
    return channels if channels <= LANES // 2 else channels + -channels % LANES


def _with_channels(x: Float[Array, "B T H X"], size: int) -> Float[Array, "B T H Y"]:
    """Returns x with channels of zeros behind the others, so that there are `size` of them."""
    rest = size - x.shape[3]
    return jnp.pad(x, [(0, 0)] * 3 + [(0, rest)]) if rest else x


def _log_decays(layout: Layout, tokens: Tokens, rest: int) -> Float[Array, "B I M R L"] | None:
    """Returns the log-decays of chunks, a unit a row, its heads side by side."""
    g = log_decays(tokens)
    if g is None:
        return None
    g = filled(g, rest)
    shape = len(g), -1, chunk_size(layout), layout.turns, layout.together, layout.paired
    g = jnp.transpose(g.reshape(shape), (0, 3, 1, 4, 5, 2))
    g = g.reshape(*g.shape[:4], -1)
    return jnp.pad(g, [(0, 0)] * 3 + [(0, unit_rows(layout) - layout.together), (0, 0)])


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
