"""Chunks of linear attention with a decay per head, as the bodies of Pallas kernels.

With G_t = g_1 + ... + g_t within a chunk and S the state that enters it, a head has the outputs

    o_t = exp(G_t) S^T q_t + sum_{s<=t} exp(G_t - G_s) (q_t . k_s) v_s

The gradient of G_t is q_t . dq_t - k_t . dk_t, and the last token's also that of the decay of the
state over the chunk. Products are those of the arrays' dtype, summed in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.linear_attention_heads import HeadDecays, HeadLanes, columns
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, product


def forward_chunks(*refs: Any, layout: Layout, decays: bool, keep: bool) -> None:
    """The body of the forward kernel: some chunks of some units.

    Args:
      refs: q, k, v, the first state and the log-decays if there are any; then the outputs, the
        final state, the sums if `layout` has them, and the states entering chunks if they are kept.
      layout: of the heads.
      decays: whether there are log-decays.
      keep: whether the states that enter chunks are kept.
    """
    q_ref, k_ref, v_ref, first_ref, *refs = refs
    g_ref = refs.pop(0) if decays else None
    o_ref, state_ref, *refs = refs
    sums_ref = refs.pop(0) if layout.sums else None
    entering_ref = refs.pop(0) if keep else None

    @pl.when(pl.program_id(2) == 0)
    def _():
        state_ref[...] = first_ref[...]

    heads = HeadLanes(layout)

    def chunk(i, _):
        t = pl.ds(pl.multiple_of(i * CHUNK, CHUNK), CHUNK)
        decay = HeadDecays(g_ref[0, 0, :, t], heads) if decays else None
        sums = jnp.zeros((CHUNK, LANES), jnp.float32)
        for u in range(layout.together):
            keys, values = layout.lanes(u)
            q, k, v = q_ref[0, t, keys], k_ref[0, t, keys], heads.with_ones(u, v_ref[0, t, values])
            S = state_ref[0, u]
            if keep:
                entering_ref[0, i, u] = S.astype(entering_ref.dtype)
            o, kept, written = product(q, S.astype(q.dtype), COLUMNS, ROWS), S, v
            if decays:
                o = o * decay.entering(u)
                kept, written = S * decay.over_chunk(u), (v * decay.leaving(u)).astype(v.dtype)
            within = []
            for j in range(layout.paired):
                scores = product(heads.only_keys(j, q), k, COLUMNS, COLUMNS)
                scores = scores * decay.between(u, j) if decays else heads.visible(scores)
                within.append(product(scores.astype(v.dtype), v, COLUMNS, ROWS))
            o = o + heads.merge_values(u, within)
            state_ref[0, u] = kept + heads.blocks(u, product(k, written, ROWS, ROWS))
            o_ref[0, t, values] = o[:, : layout.values].astype(o_ref.dtype)
            if layout.sums:
                sums = sums + o[:, layout.values :]
        if layout.sums:
            sums_ref[0, 0, :, t] = sums.T[: layout.rows]
        return 0

    jax.lax.fori_loop(0, q_ref.shape[1] // CHUNK, chunk, 0)


def backward_chunk(*refs: Any, layout: Layout, decays: bool) -> None:
    """The body of the backward kernel: one chunk of some units, the last chunk first.

    Args:
      refs: q, k, v, the gradient of the outputs, the states that enter the chunk, the gradient of
        the final state, the log-decays if there are any, and the gradient of the sums if `layout`
        has them; then the gradients of q, k, v, the first state and the log-decays.
      layout: of the heads.
      decays: whether there are log-decays.
    """
    q_ref, k_ref, v_ref, do_ref, entering_ref, last_ref, *refs = refs
    g_ref = refs.pop(0) if decays else None
    d_sums_ref = refs.pop(0) if layout.sums else None
    dq_ref, dk_ref, dv_ref, d_state_ref, *refs = refs

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_state_ref[...] = last_ref[...]

    heads = HeadLanes(layout)
    decay = HeadDecays(g_ref[0, 0], heads) if decays else None
    d_sums = columns(d_sums_ref[0, 0]).astype(do_ref.dtype) if layout.sums else None
    dG, d_all = jnp.zeros((CHUNK, LANES), jnp.float32), jnp.zeros((1, LANES), jnp.float32)
    for u in range(layout.together):
        keys, values = layout.lanes(u)
        q, k, v = q_ref[0, :, keys], k_ref[0, :, keys], heads.with_ones(u, v_ref[0, :, values])
        do = do_ref[0, :, values]
        if layout.sums:
            do = jnp.concatenate([do, d_sums], 1)
        S, dS = entering_ref[0, 0, u], d_state_ref[0, u]
        dS_rounded = dS.astype(k.dtype)
        dv, d_read, written, d_kept = product(k, dS_rounded, COLUMNS, ROWS), do, v, dS
        if decays:
            dv, d_kept = dv * decay.leaving(u), dS * decay.over_chunk(u)
            d_read = (do * decay.entering(u)).astype(do.dtype)
            written = (v * decay.leaving(u)).astype(v.dtype)
        dq = product(d_read, S, COLUMNS, COLUMNS)
        dk_leaving = product(written, dS_rounded, COLUMNS, COLUMNS)
        within = []
        for j in range(layout.paired):
            scores = product(heads.only_keys(j, q), k, COLUMNS, COLUMNS)
            d_scores = product(heads.only_values(u, j, do), v, COLUMNS, COLUMNS)
            if decays:
                factor = decay.between(u, j)
                scores, d_scores = scores * factor, d_scores * factor
            else:
                scores, d_scores = heads.visible(scores), heads.visible(d_scores)
            scores, d_scores = scores.astype(do.dtype), d_scores.astype(k.dtype)
            dq_j = product(d_scores, k, COLUMNS, ROWS)
            within.append((dq_j, product(d_scores, q, ROWS, ROWS), product(scores, do, ROWS, ROWS)))
        dq_within, dk_within, dv_within = zip(*within)
        dq = dq + heads.merge_keys(dq_within)
        dk = dk_leaving + heads.merge_keys(dk_within)
        dv = dv + heads.merge_values(u, dv_within)
        dq_ref[0, :, keys], dk_ref[0, :, keys] = dq.astype(dq_ref.dtype), dk.astype(dk_ref.dtype)
        dv_ref[0, :, values] = dv[:, : layout.values].astype(dv_ref.dtype)
        d_state_ref[0, u] = d_kept + heads.blocks(u, product(q, d_read, ROWS, ROWS))
        if decays:
            dG = heads.collect_keys(u, q * dq - k * dk, dG)
            # What the chunk writes and its decay of S, as the last token's gradient has them.
            d_all = heads.collect_keys(u, (k * dk_leaving).sum(0, keepdims=True), d_all)
            d_all = d_all + heads.collect_values(u, (d_kept * S).sum(0, keepdims=True))
    if decays:
        dG, d_all = dG.T[: layout.rows], d_all.T[: layout.rows]
        from_token = jnp.where(heads.causal, 1.0, 0.0)
        refs[0][0, 0] = product(dG, from_token, COLUMNS, ROWS) + d_all
