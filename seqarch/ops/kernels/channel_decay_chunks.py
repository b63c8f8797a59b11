"""Chunks of linear attention with a decay per key channel, as the bodies of Pallas kernels.

With G_t = g_1 + ... + g_t within a chunk and S the state that enters it, a head has the outputs

    o_t = S^T (exp(G_t) q_t) + sum_{s<=t} (q_t . exp(G_t - G_s) k_s) v_s
    S' = diag(exp(G_C)) S + sum_s (exp(G_C - G_s) k_s) v_s^T

The delta rule erases u_t = S_{t-1}^T r_t at the keys p_t, or at k_t. So it adds -u_t there, or
v_t - u_t in place of v_t. As in seqarch/ops/kernels/delta_rule_chunks.py what is added, D, solves a
triangular system (I + A) D = X. There r_t reads as a query of the token before.

States are transposed, [V, K], so that decays of channels lie along lanes.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4; Kimi Team 2025, "Kimi Linear: an expressive, efficient attention architecture", section 3
(the delta rule).
"""

from functools import cached_property

import jax.numpy as jnp

from seqarch.ops.kernels.channel_decay_levels import (
    ChannelDecays,
    ChannelScores,
    Levels,
    Steps,
    scores,
)
from seqarch.ops.kernels.delta_rule_chunks import Adding
from seqarch.ops.kernels.delta_rule_heads import (
    UnitHeads,
    after_a_token,
    before_a_token,
    times,
    transposed_times,
)
from seqarch.ops.kernels.matrices import COLUMNS
from seqarch.ops.kernels.parts import Parts, part_pairs, parts_of, parts_product, rows_product
from seqarch.types import Array, Float


class ChannelChunk(Adding):
    """A chunk of a unit of heads.

    Attributes:
      q, k, v, g, p, r: of the chunk; p and r may be None.
      S: the state that enters.
      decays: of the chunk.
      writes: the keys at which something is added.
      entering: queries and reads, decayed from the entering state, in parts.
      leaving: the writes, decayed to the end of the chunk, in parts.
      P: the scores of queries with each set of writes, in parts; `score` computes them.
      A: those of reads with the keys at which is erased.
      of_values: those of reads with the keys at which values are written.
    """

    def __init__(
        self,
        heads: UnitHeads,
        sums: Float[Array, "N X"],
        q: Float[Array, "C K"],
        k: Float[Array, "C K"],
        v: Float[Array, "C V"],
        g: Float[Array, "C K"],
        S: Float[Array, "V K"],
        p: Float[Array, "C K"] | None = None,
        r: Float[Array, "C K"] | None = None,
    ):
        self.heads, self.dtype = heads, v.dtype
        self.q, self.k, self.v, self.g, self.p, self.r, self.S = q, k, v, g, p, r, S
        self._whole = r is not None or q.dtype != v.dtype
        self.decays = ChannelDecays(g, sums, self.dtype)
        self.writes = [k] if p is None else [k, p]
        reads, entering = [q], [q * self.decays.since]
        if r is not None:
            reads.append(before_a_token(r.astype(jnp.float32)))
            entering.append(r * after_a_token(self.decays.since, 1.0))
        self.within = ChannelScores(heads, self.decays, reads, self.writes, self.parts)
        self.entering = [self.parts(x) for x in entering]
        self.leaving = [self.parts(x * self.decays.until) for x in self.writes]

    def parts(self, x: Array) -> Parts:
        """Returns what is multiplied of numbers.

        The delta rule has all of their parts, and else they are rounded if the arrays are.
        """
        return parts_of(x, self.dtype) if self._whole else (x.astype(self.dtype),)

    @cached_property
    def state(self) -> Parts:
        """The state that enters."""
        return self.parts(self.S)

    @cached_property
    def added(self) -> list[Parts]:
        """What is added to the state at each set of writes."""
        found = [self.v] if self.r is None else [self.D] if self.p is None else [self.v, self.D]
        return [self.parts(x) for x in found]

    def score(self, levels: Levels) -> Steps[None]:
        """Computes the scores."""
        found, size = (yield from scores(levels, self.within)), self.heads.size
        self.P = [self.parts(x[:size]) for x in found]
        if self.r is not None:
            of_reads = [after_a_token(x[size:], 0.0) for x in found]
            self.A32 = of_reads[-1]
            self.A, self.of_values = self.parts(self.A32), self.parts(of_reads[0])

    def right_side(self) -> Float[Array, "C V"]:
        X = self.v
        if self.p is not None:
            X = -times(self.heads, self.of_values, self.parts(self.v))
        return X - parts_product(self.entering[1], self.state, COLUMNS, COLUMNS)

    def output(self) -> Float[Array, "C V"]:
        """Returns the outputs."""
        read = parts_product(self.entering[0], self.state, COLUMNS, COLUMNS)
        return read + sum(times(self.heads, P, D) for P, D in zip(self.P, self.added))

    def after(self) -> Float[Array, "V K"]:
        """Returns the state that leaves."""
        pairs = [pair for D, k in zip(self.added, self.leaving) for pair in part_pairs(D, k)]
        return self.S * self.decays.over_chunk + self.heads.blocks(rows_product(pairs))

    def gradients_of_added(
        self, do: Float[Array, "C V"], dS: Float[Array, "V K"]
    ) -> list[Float[Array, "C V"]]:
        """Returns those of what is added at each set of writes.

        Args:
          do: the gradient of the outputs.
          dS: that of the state that leaves.
        """
        do, dS = self.parts(do), self.parts(dS)
        return [
            transposed_times(self.heads, P, do) + parts_product(k, dS, COLUMNS, COLUMNS)
            for P, k in zip(self.P, self.leaving)
        ]
