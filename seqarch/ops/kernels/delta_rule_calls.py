"""Calls of the kernels of the delta rule, over a grid of rows, heads and chunks.

The arrays are those of seqarch/ops/kernels/linear_attention_calls.py.
"""

import functools
from collections.abc import Callable

import jax
from jax.experimental import pallas as pl

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.delta_rule_bodies import backward_block, forward_block
from seqarch.ops.kernels.delta_rule_heads import unit_rows
from seqarch.ops.kernels.linear_attention_calls import PARAMS, blocks, entering_block
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.types import Array, Float


def forward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    r: Float[Array, "B T HK"],
    g: Float[Array, "B I M R L"] | None,
    state: Float[Array, "B U KP VP"],
    keep: bool,
) -> tuple[Array, ...]:
    """Returns outputs, final state, and entering states if they are kept.

    Args:
      layout: of the heads.
      q: queries; T is a multiple of CHUNK.
      k: keys.
      v: values.
      r: keys at which is read what is erased.
      g: log-decays, at least -128; None: no decay.
      state: before the first token.
      keep: whether to return the states that enter chunks [B, T/CHUNK, U, ...].
    """
    (batch, time), decays = q.shape[:2], g is not None
    keys, values, _, states = blocks(layout, CHUNK, lambda t: t)
    per_head = decays_block(layout, lambda t: t)
    results = [(values, v.shape, v.dtype), (states, state.shape, state.dtype)]
    if keep:
        shape = batch, time // CHUNK, layout.units, *layout.state
        results.append((entering_block(layout, 1, lambda t: t), shape, state.dtype))
    return kernel_call(
        functools.partial(forward_block, layout=layout, decays=decays, keep=keep),
        grid=(batch, layout.turns, time // CHUNK),
        in_specs=[keys, keys, values, keys, states, *[per_head] * decays],
        out_specs=[spec for spec, _, _ in results],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in results],
        compiler_params=PARAMS,
        name="delta_rule",
    )(q, k, v, r, state, *[g] * decays)


def backward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    r: Float[Array, "B T HK"],
    g: Float[Array, "B I M R L"] | None,
    entering: Float[Array, "B N U KP VP"],
    do: Float[Array, "B T HV"],
    d_state: Float[Array, "B U KP VP"],
) -> tuple[Array, ...]:
    """Returns the gradients of q, k, v, r and the first state, then of g if there is decay.

    Args:
      layout, q, k, v, r, g: those of `forward`.
      entering: the states that enter blocks.
      do: the gradient of the outputs.
      d_state: that of the final state.
    """
    last = q.shape[1] // CHUNK - 1
    keys, values, _, states = blocks(layout, CHUNK, lambda t: last - t)
    per_head = decays_block(layout, lambda t: last - t)
    entry, decayed = entering_block(layout, 1, lambda t: last - t), [g] * (g is not None)
    decays = [per_head for _ in decayed]
    return kernel_call(
        functools.partial(backward_block, layout=layout, decays=g is not None),
        grid=(len(q), layout.turns, last + 1),
        in_specs=[keys, keys, values, keys, values, entry, states, *decays],
        out_specs=[keys, keys, values, keys, states, *decays],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v, r, d_state, *decayed)],
        compiler_params=PARAMS,
        name="delta_rule_backward",
    )(q, k, v, r, do, entering, d_state, *decayed)


def decays_block(layout: Layout, at: Callable[[int], int]) -> pl.BlockSpec:
    """Returns the block of log-decays of the chunks of CHUNK tokens."""
    shape = 1, 1, layout.paired, unit_rows(layout), LANES
    return pl.BlockSpec(shape, lambda b, i, t: (b, i, at(t), 0, 0))
