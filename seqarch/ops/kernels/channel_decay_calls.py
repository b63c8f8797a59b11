"""Calls of the kernels of linear attention with a decay per key channel.

Log-decays have the lanes of keys. States are transposed: [B, U, VP, KP].
"""

import functools

import jax
from jax.experimental import pallas as pl

from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.channel_decay_bodies import backward_block, forward_block
from seqarch.ops.kernels.channel_decay_levels import summed
from seqarch.ops.kernels.delta_rule_heads import chunk_size
from seqarch.ops.kernels.linear_attention_calls import PARAMS, blocks, entering_block
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.types import Array, Float


def forward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    g: Float[Array, "B T HK"],
    state: Float[Array, "B U VP KP"],
    keep: bool,
) -> tuple[Array, ...]:
    """Returns outputs, final state, and entering states if they are kept.

    Args:
      layout: of the heads.
      q: queries; T is a multiple of CHUNK.
      k: keys.
      v: values.
      g: log-decays, at least FLOOR; that is the decay 0.
      state: before the first token.
      keep: whether to return the states that enter blocks [B, T/CHUNK, U, VP, KP], in v's dtype.
    """
    (batch, time), turned = q.shape[:2], transposed(layout)
    keys, values, _, _ = blocks(layout, CHUNK, lambda t: t)
    states = blocks(turned, CHUNK, lambda t: t)[3]
    results = [(values, v.shape, v.dtype), (states, state.shape, state.dtype)]
    if keep:
        shape = batch, time // CHUNK, layout.units, *turned.state
        results.append((entering_block(turned, 1, lambda t: t), shape, v.dtype))
    sums = summed(chunk_size(layout), v.dtype)
    return kernel_call(
        functools.partial(forward_block, layout=layout, keep=keep),
        grid=(batch, layout.turns, time // CHUNK),
        in_specs=[keys, keys, values, keys, _whole(sums), states],
        out_specs=[spec for spec, _, _ in results],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in results],
        compiler_params=PARAMS,
        name="channel_decay",
    )(q, k, v, g, sums, state)


def backward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    g: Float[Array, "B T HK"],
    entering: Float[Array, "B N U VP KP"],
    do: Float[Array, "B T HV"],
    d_state: Float[Array, "B U VP KP"],
) -> tuple[Array, ...]:
    """Returns the gradients of q, k, v, the log-decays and the first state.

    Args:
      layout: of the heads.
      q: queries.
      k: keys.
      v: values.
      g: log-decays; FLOOR has no derivative.
      entering: the states that enter blocks.
      do: the gradient of the outputs.
      d_state: that of the final state.
    """
    last, turned = q.shape[1] // CHUNK - 1, transposed(layout)
    at = lambda t: last - t
    keys, values, _, _ = blocks(layout, CHUNK, at)
    states, entry = blocks(turned, CHUNK, at)[3], entering_block(turned, 1, at)
    sums = summed(chunk_size(layout), v.dtype)
    return kernel_call(
        functools.partial(backward_block, layout=layout),
        grid=(len(q), layout.turns, last + 1),
        in_specs=[keys, keys, values, keys, _whole(sums), values, entry, states],
        out_specs=[keys, keys, values, keys, states],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v, g, d_state)],
        compiler_params=PARAMS,
        name="channel_decay_backward",
    )(q, k, v, g, sums, do, entering, d_state)


def transposed(layout: Layout) -> Layout:
    """Returns the layout of transposed states."""
    return layout._replace(key=layout.value, value=layout.key)


def _whole(x: Float[Array, "N X"]) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda b, i, t: (0, 0))
