"""Calls of the kernels of linear attention with a decay per head, over a grid of chunks and heads.

Log-decays, sums and their gradients are arrays [B, I, R, T] of I turns of the grid over the heads,
a head a row. States are [B, U, ...], of units of heads.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.linear_attention_chunks import backward_chunk, forward_chunks
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.types import Array, Float

PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def forward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    g: Float[Array, "B I R T"] | None,
    state: Float[Array, "B U KP VP"],
    keep: bool,
) -> tuple[Array, ...]:
    """Returns outputs, final state, sums if the layout has them, entering states if they are kept.

    Args:
      layout: of the heads.
      q: queries; T is a multiple of CHUNK.
      k: keys.
      v: values.
      g: log-decays, at least -128; None: no decay.
      state: before the first token.
      keep: whether to return the states that enter chunks [B, T/CHUNK, U, ...], in k's dtype.
    """
    (batch, time), decays = q.shape[:2], g is not None
    block = 2 * CHUNK if time % (2 * CHUNK) == 0 else CHUNK
    keys, values, per_head, states = blocks(layout, block, lambda t: t)
    results = [(values, v.shape, v.dtype), (states, state.shape, state.dtype)]
    if layout.sums:
        results.append((per_head, (batch, layout.turns, layout.rows, time), jnp.float32))
    if keep:
        results.append(
            (entering_block(layout, block // CHUNK, lambda t: t), _kept(layout, k), k.dtype)
        )
    return kernel_call(
        functools.partial(forward_chunks, layout=layout, decays=decays, keep=keep),
        grid=(batch, layout.turns, time // block),
        in_specs=[keys, keys, values, states, *[per_head] * decays],
        out_specs=[spec for spec, _, _ in results],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in results],
        compiler_params=PARAMS,
        name="linear_attention",
    )(q, k, v, state, *[g] * decays)


def backward(
    layout: Layout,
    q: Float[Array, "B T HK"],
    k: Float[Array, "B T HK"],
    v: Float[Array, "B T HV"],
    g: Float[Array, "B I R T"] | None,
    entering: Float[Array, "B M U KP VP"],
    do: Float[Array, "B T HV"],
    d_sums: Float[Array, "B I R T"] | None,
    d_state: Float[Array, "B U KP VP"],
) -> tuple[Array, ...]:
    """Returns the gradients of q, k, v and the first state, then of g if there is decay.

    Args:
      layout, q, k, v, g: those of `forward`.
      entering: the states that enter chunks.
      do: the gradient of the outputs.
      d_sums: that of the sums, if the layout has them.
      d_state: that of the final state.
    """
    last = q.shape[1] // CHUNK - 1
    keys, values, per_head, states = blocks(layout, CHUNK, lambda t: last - t)
    entry = entering_block(layout, 1, lambda t: last - t)
    decayed, summed = [g] * (g is not None), [d_sums] * layout.sums
    return kernel_call(
        functools.partial(backward_chunk, layout=layout, decays=g is not None),
        grid=(len(q), layout.turns, last + 1),
        in_specs=[keys, keys, values, values, entry, states, *[per_head for _ in decayed + summed]],
        out_specs=[keys, keys, values, states, *[per_head for _ in decayed]],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v, d_state, *decayed)],
        compiler_params=PARAMS,
        name="linear_attention_backward",
    )(q, k, v, do, entering, d_state, *decayed, *summed)


def blocks(layout: Layout, size: int, at: Callable[[int], int]) -> list[pl.BlockSpec]:
    """Returns the blocks of keys, of values, of numbers per head and of states.

    Args:
      layout: of the heads.
      size: tokens of a block.
      at: the index of the block that a turn of the grid takes.
    """
    units = layout.together

    def tokens(lanes: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, size, units * lanes), lambda b, i, t: (b, at(t), i))

    per_head = pl.BlockSpec((1, 1, layout.rows, size), lambda b, i, t: (b, i, 0, at(t)))
    states = pl.BlockSpec((1, units, *layout.state), lambda b, i, t: (b, i, 0, 0))
    return [tokens(layout.keys), tokens(layout.values), per_head, states]


def entering_block(layout: Layout, chunks: int, at: Callable[[int], int]) -> pl.BlockSpec:
    """Returns the block of the states that enter some chunks."""
    shape = (1, chunks, layout.together, *layout.state)
    return pl.BlockSpec(shape, lambda b, i, t: (b, at(t), i, 0, 0))


def _kept(layout: Layout, k: Float[Array, "B T HK"]) -> tuple[int, ...]:
    return len(k), k.shape[1] // CHUNK, layout.units, *layout.state
