"""Gradients of a chunk of linear attention with a decay per key channel.

The gradient of G_t is q_t dq_t - k_t dk_t, and that of G_C also that of what leaves the chunk. With
the delta rule the gradient of X solves (I + A)^T dX = dD, and that of A is -dX D^T. So a read is a
query of the token before, whose output has the gradient -dX, and r_t dr_t is of G_{t-1}.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
appendix C.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from seqarch.ops.decay import FLOOR
from seqarch.ops.kernels.channel_decay_chunks import ChannelChunk
from seqarch.ops.kernels.channel_decay_levels import Levels, Steps, in_step
from seqarch.ops.kernels.channel_decay_levels import gradients as gradients_within
from seqarch.ops.kernels.delta_rule_chunks import solve_all
from seqarch.ops.kernels.delta_rule_heads import after_a_token, before_a_token, transposed_times
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota
from seqarch.ops.kernels.parts import Parts, part_pairs, parts_of, parts_product, rows_product
from seqarch.types import Array, Float


def gradients(
    levels: Levels,
    chunks: Sequence[ChannelChunk],
    do: Sequence[Float[Array, "C V"]],
    dS: Sequence[Float[Array, "V K"]],
) -> list[dict[str, Array]]:
    """Returns the gradients of the arrays of chunks of some units, by their names.

    Args:
      levels: of pairs.
      chunks: with their scores, and what they add.
      do: the gradients of their outputs.
      dS: those of the states that leave.
    """
    of_added = [c.gradients_of_added(*given) for c, *given in zip(chunks, do, dS)]
    erased, dv = [None for _ in chunks], [of_values for of_values, *_ in of_added]
    if chunks[0].r is not None:
        dX = solve_all(chunks, [x[-1] for x in of_added], transposed_times)
        erased = [-x for x in dX]
        if chunks[0].p is None:
            dv = dX
        else:
            of_values = [
                transposed_times(c.heads, c.of_values, c.parts(u)) for c, u in zip(chunks, erased)
            ]
            dv = [x + y for x, y in zip(dv, of_values)]
    given = zip(chunks, do, erased, dS)
    found = in_step([_gradients(levels, *each) for each in given])
    return [each | dict(v=x) for each, x in zip(found, dv)]


def _gradients(
    levels: Levels,
    c: ChannelChunk,
    do: Float[Array, "C V"],
    du: Float[Array, "C V"] | None,
    dS: Float[Array, "V K"],
) -> Steps[dict[str, Array]]:
    """Returns the gradients of all but the values; du is that of what is read to be erased."""
    outs, rolled = [c.parts(do)], [c.parts(do)]
    if du is not None:
        outs.append(c.parts(du))
        rolled.append(c.parts(before_a_token(du)))
    d_reads, d_writes = yield from gradients_within(levels, c.within, *_of_scores(c, rolled))
    entering = [parts_product(x, c.state, COLUMNS, ROWS) for x in outs]
    of_leaving = [parts_product(x, c.parts(dS), COLUMNS, ROWS) for x in c.added]
    yield
    leaving, kept = [c.decays.until * x for x in of_leaving], dS * c.decays.over_chunk
    d_writes = [x + y for x, y in zip(d_writes, leaving)]
    found = dict(zip(["k", "p"], d_writes), q=d_reads[0] + c.decays.since * entering[0])
    dG, at_end = c.q * found["q"], (kept * c.S).sum(0, keepdims=True)
    if c.r is not None:
        before = after_a_token(c.decays.since, 1.0) * entering[1]
        found["r"] = after_a_token(d_reads[1], 0.0) + before
        dG = dG + before_a_token(c.r * found["r"])
    for x, d, leaves in zip(c.writes, d_writes, leaving):
        dG, at_end = dG - x * d, at_end + (x * leaves).sum(0, keepdims=True)
    pairs = [pair for x, y in zip(outs, c.entering) for pair in part_pairs(x, y)]
    found["S"] = kept + c.heads.blocks(rows_product(pairs))
    found["g"] = jnp.where(c.g > FLOOR, _sums_of_later(c, dG) + at_end, 0.0)
    return found


def _of_scores(c: ChannelChunk, outs: list[Parts]) -> tuple[list, list]:
    """Returns the gradients of scores, as those of levels take them."""
    stacked = [tuple(map(c.heads.stack, x)) for x in outs]
    by_read, by_write = [], []
    for D in c.added:
        values = tuple(map(c.heads.stack, D))
        rows = [parts_product(x, values, COLUMNS, COLUMNS) for x in outs]
        by_read.append(jnp.concatenate(rows))
        by_write.append([parts_product(D, x, COLUMNS, COLUMNS) for x in stacked])
    return by_read, by_write


def _sums_of_later(c: ChannelChunk, x: Float[Array, "C K"]) -> Float[Array, "C K"]:
    """Returns the sums of each token's row and those of later tokens."""
    shape = c.heads.size, c.heads.size
    later = jnp.where(iota(shape, ROWS) <= iota(shape, COLUMNS), 1.0, 0.0).astype(c.dtype)
    return parts_product((later,), parts_of(x, c.dtype), COLUMNS, ROWS)
