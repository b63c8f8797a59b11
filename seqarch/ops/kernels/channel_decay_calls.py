"""Calls of the kernels of linear attention with a decay per key channel.

Log-decays have the lanes of keys. States are transposed: [B, U, VP, KP].
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
from jax.experimental import pallas as pl

from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.channel_decay_bodies import backward_block, forward_block
from seqarch.ops.kernels.channel_decay_levels import summed
from seqarch.ops.kernels.delta_rule_heads import chunk_size
from seqarch.ops.kernels.linear_attention_calls import PARAMS, blocks, entering_block
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.types import Array, Float

MEMORY = 20 << 20  # bytes of the core's memory for gradients; a v4 has 16 MiB and needs fewer


def forward(
    layout: Layout, tokens: Mapping[str, Array], state: Float[Array, "B U VP KP"], keep: bool
) -> tuple[Array, ...]:
    """Returns outputs, final state, and entering states if they are kept.

    Args:
      layout: of the heads.
      tokens: q, k, v and g, then p and r if they are there, [B, T, HK] or [B, T, HV]; T is a
        multiple of CHUNK, and g at least FLOOR, which is the decay 0.
      state: before the first token.
      keep: whether to return the states that enter blocks [B, T/CHUNK, U, VP, KP], in float32 for
        the delta rule, else in v's dtype.
    """
    v = tokens["v"]
    (batch, time), turned = v.shape[:2], transposed(layout)
    keys, values, states = _blocks(layout, lambda t: t)
    results = [(values, v.shape, v.dtype), (states, state.shape, state.dtype)]
    if keep:
        shape = batch, time // CHUNK, layout.units, *turned.state
        dtype = state.dtype if "r" in tokens else v.dtype
        results.append((entering_block(turned, 1, lambda t: t), shape, dtype))
    sums = summed(chunk_size(layout), v.dtype)
    of_tokens = [values if name == "v" else keys for name in tokens]
    return kernel_call(
        functools.partial(forward_block, layout=layout, names=tuple(tokens), keep=keep),
        grid=(batch, layout.turns, time // CHUNK),
        in_specs=[*of_tokens, _whole(sums), states],
        out_specs=[spec for spec, _, _ in results],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in results],
        compiler_params=PARAMS,
        name="channel_decay",
    )(*tokens.values(), sums, state)


def backward(
    layout: Layout,
    tokens: Mapping[str, Array],
    entering: Float[Array, "B N U VP KP"],
    do: Float[Array, "B T HV"],
    d_state: Float[Array, "B U VP KP"],
) -> tuple[Array, ...]:
    """Returns the gradients of the tokens' arrays and of the first state.

    Args:
      layout: of the heads.
      tokens: those of `forward`; a g of FLOOR has no derivative.
      entering: the states that enter blocks.
      do: the gradient of the outputs.
      d_state: that of the final state.
    """
    last, given = do.shape[1] // CHUNK - 1, list(tokens.values())
    keys, values, states = _blocks(layout, lambda t: last - t)
    entry = entering_block(transposed(layout), 1, lambda t: last - t)
    sums = summed(chunk_size(layout), do.dtype)
    of_tokens = [values if name == "v" else keys for name in tokens]
    return kernel_call(
        functools.partial(backward_block, layout=layout, names=tuple(tokens)),
        grid=(len(do), layout.turns, last + 1),
        in_specs=[*of_tokens, _whole(sums), values, entry, states],
        out_specs=[*of_tokens, states],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*given, d_state)],
        compiler_params=dataclasses.replace(PARAMS, vmem_limit_bytes=MEMORY),
        name="channel_decay_backward",
    )(*given, sums, do, entering, d_state)


def transposed(layout: Layout) -> Layout:
    """Returns the layout of transposed states."""
    return layout._replace(key=layout.value, value=layout.key)


def _blocks(layout: Layout, at: Callable[[int], int]) -> list[pl.BlockSpec]:
    """Returns the blocks of keys, of values and of states."""
    keys, values, _, _ = blocks(layout, CHUNK, at)
    return [keys, values, blocks(transposed(layout), CHUNK, at)[3]]


def _whole(x: Float[Array, "N X"]) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda b, i, t: (0, 0))
