"""Bodies of the kernels of linear attention with a decay per key channel: a block of tokens."""

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels.channel_decay_chunks import Chunk
from seqarch.ops.kernels.channel_decay_levels import Levels, in_step
from seqarch.ops.kernels.delta_rule_heads import Heads
from seqarch.ops.kernels.linear_attention_heads import COLUMNS, ROWS, iota
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout

TOGETHER = 4  # units that are computed in step


def forward_block(*refs: Any, layout: Layout, keep: bool) -> None:
    """The body of the forward kernel: CHUNK tokens of some units.

    Args:
      refs: q, k, v, the log-decays, the tokens that each factor sums and the first state; then the
        outputs, the final state, and the states that enter blocks if they are kept.
      layout: of the heads.
      keep: whether the states that enter blocks are kept.
    """
    *given, first_ref, o_ref, state_ref = refs[:8]

    @pl.when(pl.program_id(2) == 0)
    def _():
        state_ref[...] = first_ref[...]

    if keep:
        refs[8][0, 0] = state_ref[0].astype(refs[8].dtype)
    heads = Heads(layout)
    levels = Levels(heads)
    for t in _times(heads):
        for units in _groups(layout):
            chunks = [_chunk(heads, given, t, u, state_ref[0, u]) for u in units]
            found = in_step([c.forward(levels) for c in chunks])
            for u, (o, state_ref[0, u]) in zip(units, found):
                o_ref[0, t, layout.lanes(u)[1]] = o.astype(o_ref.dtype)


def backward_block(*refs: Any, layout: Layout) -> None:
    """The body of the backward kernel: CHUNK tokens of some units, the last ones first.

    Args:
      refs: q, k, v, the log-decays, the tokens that each factor sums, the gradient of the outputs,
        the states that enter the block and the gradient of the final state; then the gradients of
        q, k, v, the log-decays and the first state.
      layout: of the heads.
    """
    *given, do_ref, entering_ref, last_ref = refs[:8]
    d_state_ref = refs[12]

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_state_ref[...] = last_ref[...]

    heads = Heads(layout)
    levels, times = Levels(heads), _times(heads)
    for units in _groups(layout):
        states = [entering_ref[0, 0, u].astype(jnp.float32) for u in units]
        chunks = []
        for t in times:
            chunks.append([_chunk(heads, given, t, u, S) for u, S in zip(units, states)])
            states = [c.after() for c in chunks[-1]]
        for t, each in reversed(list(zip(times, chunks))):
            _write_gradients(levels, each, t, units, do_ref, refs[8:])


def _write_gradients(levels: Levels, chunks, t: slice, units: range, do_ref, results) -> None:
    """Writes the gradients of the chunks of some units."""
    heads, (*of_tokens, d_state_ref) = chunks[0].heads, results
    lanes, shape = [heads.layout.lanes(u) for u in units], (heads.size, heads.size)
    later = jnp.where(iota(shape, ROWS) <= iota(shape, COLUMNS), 1.0, 0.0).astype(do_ref.dtype)
    steps = [
        c.backward(levels, do_ref[0, t, values], d_state_ref[0, u], later)
        for c, u, (_, values) in zip(chunks, units, lanes)
    ]
    for u, (keys, values), found in zip(units, lanes, in_step(steps)):
        dq, dk, dv, d_state_ref[0, u], dg = found
        places = (keys, keys, values, keys)
        for ref, x, at in zip(of_tokens, (dq, dk, dv, dg), places):
            ref[0, t, at] = x.astype(ref.dtype)


def _times(heads: Heads) -> list[slice]:
    """Returns the tokens of each chunk of a block."""
    return [slice(at, at + heads.size) for at in range(0, CHUNK, heads.size)]


def _groups(layout: Layout) -> list[range]:
    """Returns the units that are computed in step."""
    starts = range(0, layout.together, TOGETHER)
    return [range(at, min(at + TOGETHER, layout.together)) for at in starts]


def _chunk(heads: Heads, refs, t: slice, unit: int, S) -> Chunk:
    """Returns the chunk of a unit at some tokens."""
    *refs, sums_ref = refs
    keys, values = heads.layout.lanes(unit)
    given = (ref[0, t, at] for ref, at in zip(refs, (keys, keys, values, keys)))
    return Chunk(heads, sums_ref[...], *given, S)
