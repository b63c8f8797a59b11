"""Gradients of a chunk of the delta rule.

The gradient of X, which is that of V, solves (I + A)^T dX = dD, and that of A is -dX D^T. So a read
is a query whose output has the gradient -dX. That of G_t is q_t . dq_t - k_t . dk_t, and that of
G_{t-1} is r_t . dr_t; the last token's also has that of the decay of the state over the chunk.
"""

from seqarch.ops.kernels.delta_rule_chunks import DeltaChunk, solve_all
from seqarch.ops.kernels.delta_rule_decays import DeltaGradients
from seqarch.ops.kernels.delta_rule_heads import times, transposed_times
from seqarch.ops.kernels.matrices import COLUMNS, ROWS
from seqarch.ops.kernels.parts import part_pairs, parts_product, rows_product
from seqarch.types import Array, Float


def gradients(
    chunks: list[DeltaChunk],
    do: list[Float[Array, "C V"]],
    dS: list[Float[Array, "K V"]],
    dg: DeltaGradients | None,
) -> list[tuple[Array, ...]]:
    """Returns the gradients of q, k, v, r and the entering state of chunks.

    Args:
      chunks: of several units.
      do: the gradients of their outputs.
      dS: those of the states that leave.
      dg: takes those of log-decays; None: there is no decay.
    """
    dD = [_of_added(c, o, S) for c, o, S in zip(chunks, do, dS)]
    dX = solve_all(chunks, dD, transposed_times)
    return [_gradients(c, *given, dg) for c, *given in zip(chunks, do, dX, dS)]


def _of_added(
    c: DeltaChunk, do: Float[Array, "C V"], dS: Float[Array, "K V"]
) -> Float[Array, "C V"]:
    """Returns the gradient of what a chunk adds."""
    leaving = c.until_last(parts_product(c.k, c.parts(dS), COLUMNS, ROWS))
    return leaving + transposed_times(c.heads, c.P, (do,))


def _gradients(
    c: DeltaChunk,
    do: Float[Array, "C V"],
    dX: Float[Array, "C V"],
    dS: Float[Array, "K V"],
    dg: DeltaGradients | None,
) -> tuple[Array, ...]:
    reads, D, d_state = c.parts(-dX), c.parts(c.D), c.parts(dS)
    stacked = tuple(map(c.heads.stack, D))
    dP = c.parts(c.visible * parts_product((do,), stacked, COLUMNS, COLUMNS))
    dA = c.parts(c.seen * parts_product(reads, stacked, COLUMNS, COLUMNS))
    dq = c.since_first(parts_product((do,), c.S, COLUMNS, COLUMNS)) + times(c.heads, dP, c.k)
    dr = c.since_before(parts_product(reads, c.S, COLUMNS, COLUMNS)) + times(c.heads, dA, c.k)
    leaving = c.until_last(parts_product(D, d_state, COLUMNS, COLUMNS))
    within = rows_product([*part_pairs(dP, c.q), *part_pairs(dA, c.r)])
    dk, kept = leaving + c.heads.unstack(within), c.over_chunk(dS)
    from_outputs = part_pairs(c.q, c.parts(c.since_first(do)))
    from_reads = part_pairs(c.r, c.parts(c.since_before(-dX)))
    entering = kept + c.heads.blocks(rows_product([*from_outputs, *from_reads]))
    if dg is not None:
        q, k, r = (sum(x.astype(dX.dtype) for x in parts) for parts in (c.q, c.k, c.r))
        over = [(k * leaving).sum(0, keepdims=True), (kept * c.state).sum(0, keepdims=True)]
        dg.add(c.unit, q * dq - k * dk, r * dr, over)
    return dq, dk, dX, dr, entering
