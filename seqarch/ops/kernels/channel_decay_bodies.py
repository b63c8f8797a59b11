"""Bodies of the kernels of linear attention with a decay per key channel: a block of tokens."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels.channel_decay_chunks import ChannelChunk
from seqarch.ops.kernels.channel_decay_gradients import gradients
from seqarch.ops.kernels.channel_decay_levels import Levels, in_step
from seqarch.ops.kernels.delta_rule_chunks import add
from seqarch.ops.kernels.delta_rule_heads import UnitHeads
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout

TOGETHER = 4  # units that are computed in step


def forward_block(*refs: Any, layout: Layout, names: Sequence[str], keep: bool) -> None:
    """The body of the forward kernel: CHUNK tokens of some units.

    Args:
      refs: the tokens' arrays, the tokens that each factor sums and the first state; then the
        outputs, the final state, and the states that enter blocks if they are kept.
      layout: of the heads.
      names: of the tokens' arrays: q, k, v and g, then p and r if they are there.
      keep: whether the states that enter blocks are kept.
    """
    given, refs = dict(zip(names, refs)), refs[len(names) :]
    sums_ref, first_ref, o_ref, state_ref, *entering_refs = refs

    @pl.when(pl.program_id(2) == 0)
    def _():
        state_ref[...] = first_ref[...]

    for ref in entering_refs[:keep]:
        ref[0, 0] = state_ref[0].astype(ref.dtype)
    heads = UnitHeads(layout)
    levels = Levels(heads)
    for t in _times(heads):
        for units in _groups(layout):
            states = [state_ref[0, u] for u in units]
            chunks = _chunks(heads, sums_ref[...], given, t, units, states)
            _score(levels, chunks)
            for u, c in zip(units, chunks):
                o_ref[0, t, layout.lanes(u)[1]] = c.output().astype(o_ref.dtype)
                state_ref[0, u] = c.after()


def backward_block(*refs: Any, layout: Layout, names: Sequence[str]) -> None:
    """The body of the backward kernel: CHUNK tokens of some units, the last ones first.

    Args:
      refs: the tokens' arrays, the tokens that each factor sums, the gradient of the outputs, the
        states that enter the block and the gradient of the final state; then the gradients of the
        tokens' arrays and of the first state.
      layout: of the heads.
      names: of the tokens' arrays.
    """
    given, refs = dict(zip(names, refs)), refs[len(names) :]
    (sums_ref, do_ref, entering_ref, last_ref), results = refs[:4], dict(zip(names, refs[4:]))
    results["S"] = refs[-1]

    @pl.when(pl.program_id(2) == 0)
    def _():
        results["S"][...] = last_ref[...]

    heads = UnitHeads(layout)
    levels, times = Levels(heads), _times(heads)
    # Gradients of the delta rule of more units would not fit a v4's memory.
    for units in _groups(layout, layout.paired if "r" in names else TOGETHER):
        states = [entering_ref[0, 0, u].astype(jnp.float32) for u in units]
        chunks = []
        for t in times:
            chunks.append(_chunks(heads, sums_ref[...], given, t, units, states))
            _score(levels, chunks[-1])
            states = [c.after() for c in chunks[-1]]
        for t, each in reversed(list(zip(times, chunks))):
            _write_gradients(levels, each, t, units, do_ref, results)


def _write_gradients(levels: Levels, chunks, t: slice, units: range, do_ref, results) -> None:
    """Writes the gradients of the chunks of some units."""
    lanes = [chunks[0].heads.layout.lanes(u) for u in units]
    do = [do_ref[0, t, values] for _, values in lanes]
    dS = [results["S"][0, u] for u in units]
    for u, (keys, values), found in zip(units, lanes, gradients(levels, chunks, do, dS)):
        results["S"][0, u] = found.pop("S")
        for name, x in found.items():
            ref = results[name]
            ref[0, t, values if name == "v" else keys] = x.astype(ref.dtype)


def _times(heads: UnitHeads) -> list[slice]:
    """Returns the tokens of each chunk of a block."""
    return [slice(at, at + heads.size) for at in range(0, CHUNK, heads.size)]


def _groups(layout: Layout, size: int = TOGETHER) -> list[range]:
    """Returns the units that are computed in step."""
    starts = range(0, layout.together, size)
    return [range(at, min(at + size, layout.together)) for at in starts]


def _chunks(heads: UnitHeads, sums, refs, t: slice, units: range, states) -> list[ChannelChunk]:
    """Returns the chunks of units at some tokens."""
    chunks = []
    for u, S in zip(units, states):
        keys, values = heads.layout.lanes(u)
        given = {name: ref[0, t, values if name == "v" else keys] for name, ref in refs.items()}
        chunks.append(ChannelChunk(heads, sums, S=S, **given))
    return chunks


def _score(levels: Levels, chunks: list[ChannelChunk]) -> None:
    """Computes the scores of chunks, and what they add."""
    in_step([c.score(levels) for c in chunks])
    if chunks[0].r is not None:
        add(chunks)
