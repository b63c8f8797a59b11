"""Bodies of the kernels of the delta rule: a block of tokens of some units of heads."""

from typing import Any

from jax.experimental import pallas as pl

from seqarch.ops.kernels.delta_rule_chunks import DeltaChunk, add
from seqarch.ops.kernels.delta_rule_decays import DeltaDecays, DeltaGradients
from seqarch.ops.kernels.delta_rule_gradients import gradients
from seqarch.ops.kernels.delta_rule_heads import UnitHeads
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout

BACKWARD = 4  # units whose gradients are computed in step; those of 8 would not fit a v4's memory


def forward_block(*refs: Any, layout: Layout, decays: bool, keep: bool) -> None:
    """The body of the forward kernel: CHUNK tokens of some units.

    Args:
      refs: q, k, v, r, the first state and the log-decays if there are any; then the outputs, the
        final state, and the states that enter blocks if they are kept.
      layout: of the heads.
      decays: whether there are log-decays.
      keep: whether the states that enter blocks are kept.
    """
    q_ref, k_ref, v_ref, r_ref, first_ref, *refs = refs
    g_ref = refs.pop(0) if decays else None
    o_ref, state_ref, *entering_refs = refs

    @pl.when(pl.program_id(2) == 0)
    def _():
        state_ref[...] = first_ref[...]

    if keep:
        entering_refs[0][0, 0] = state_ref[0]
    heads = UnitHeads(layout)
    for i in range(CHUNK // heads.size):
        t = slice(i * heads.size, (i + 1) * heads.size)
        decay = DeltaDecays(g_ref[0, 0, i], heads, v_ref.dtype) if decays else None
        states = {u: state_ref[0, u] for u in range(layout.together)}
        for c in _chunks(heads, decay, [q_ref, k_ref, v_ref, r_ref], t, states):
            _, values = layout.lanes(c.unit)
            o_ref[0, t, values] = c.output().astype(o_ref.dtype)
            state_ref[0, c.unit] = c.after()


def backward_block(*refs: Any, layout: Layout, decays: bool) -> None:
    """The body of the backward kernel: CHUNK tokens of some units, the last ones first.

    Args:
      refs: q, k, v, r, the gradient of the outputs, the states that enter the block, the gradient
        of the final state, and the log-decays if there are any; then the gradients of q, k, v, r,
        the first state and the log-decays.
      layout: of the heads.
      decays: whether there are log-decays.
    """
    *given, do_ref, entering_ref, last_ref = refs[:7]
    g_ref = refs[7] if decays else None
    results = refs[7 + decays :]
    d_state_ref = results[4]

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_state_ref[...] = last_ref[...]

    heads = UnitHeads(layout)
    times = [slice(at, at + heads.size) for at in range(0, CHUNK, heads.size)]
    dtype = given[2].dtype
    decay = [
        DeltaDecays(g_ref[0, 0, i], heads, dtype) if decays else None for i in range(len(times))
    ]
    dg = [DeltaGradients(heads, dtype) for _ in times]
    for at in range(0, layout.together, BACKWARD):
        units = range(at, min(at + BACKWARD, layout.together))
        states, chunks = {u: entering_ref[0, 0, u] for u in units}, []
        for each, t in zip(decay, times):
            chunks.append(_chunks(heads, each, given, t, states))
            states = {c.unit: c.after() for c in chunks[-1]}
        for i in reversed(range(len(times))):
            _backward(chunks[i], times[i], do_ref, results, dg[i] if decays else None)
    if decays:
        for i, each in enumerate(dg):
            results[5][0, 0, i] = each.rows()


def _backward(chunks, t, do_ref, results, dg) -> None:
    """Writes the gradients of chunks."""
    d_state_ref = results[4]
    lanes = [c.heads.layout.lanes(c.unit) for c in chunks]
    do = [do_ref[0, t, values] for _, values in lanes]
    dS = [d_state_ref[0, c.unit] for c in chunks]
    for c, (keys, values), found in zip(chunks, lanes, gradients(chunks, do, dS, dg)):
        *of_tokens, d_state_ref[0, c.unit] = found
        for ref, x, at in zip(results, of_tokens, (keys, keys, values, keys)):
            ref[0, t, at] = x.astype(ref.dtype)


def _chunks(heads, decay, refs, t, states) -> list[DeltaChunk]:
    """Returns the chunks of units at some tokens, with what they add."""
    chunks = []
    for u, S in states.items():
        keys, values = heads.layout.lanes(u)
        q, k, v, r = (ref[0, t, at] for ref, at in zip(refs, (keys, keys, values, keys)))
        chunks.append(DeltaChunk(heads, u, decay, q, k, v, r, S))
    add(chunks)
    return chunks
