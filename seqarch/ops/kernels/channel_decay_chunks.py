"""Chunks of linear attention with a decay per key channel, as the bodies of Pallas kernels.

With G_t = g_1 + ... + g_t within a chunk and S the state that enters it, a head has the outputs

    o_t = S^T (exp(G_t) q_t) + sum_{s<=t} (q_t . exp(G_t - G_s) k_s) v_s
    S' = diag(exp(G_C)) S + sum_s (exp(G_C - G_s) k_s) v_s^T

The gradient of G_t is q_t dq_t - k_t dk_t, and that of G_C also that of what leaves the chunk.
States are transposed, [V, K], so that decays of channels lie along lanes.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4 and appendix C (the gradient of decays).
"""

import jax.numpy as jnp

from seqarch.ops.decay import FLOOR
from seqarch.ops.kernels.channel_decay_levels import (
    Decays,
    Levels,
    Steps,
    Within,
    gradients,
    scores,
)
from seqarch.ops.kernels.delta_rule_heads import Heads, times
from seqarch.ops.kernels.linear_attention_heads import COLUMNS, ROWS
from seqarch.ops.kernels.parts import Parts, parts_of, parts_product
from seqarch.types import Array, Float


class Chunk:
    """A chunk of a unit of heads.

    Attributes:
      q, k, v: queries, keys and values.
      S: the state that enters.
      decays: of the chunk.
      entering: queries, decayed from the entering state.
      leaving: keys, decayed to the end of the chunk.
      P: the scores of queries with keys, once they are computed.
    """

    def __init__(
        self,
        heads: Heads,
        sums: Float[Array, "N X"],
        q: Float[Array, "C K"],
        k: Float[Array, "C K"],
        v: Float[Array, "C V"],
        g: Float[Array, "C K"],
        S: Float[Array, "V K"],
    ):
        self.heads, self.dtype, self.g, self.S = heads, v.dtype, g, S
        self.q, self.k, self.v = q, k, self.parts(v)
        self.decays = Decays(g, sums, self.dtype)
        self.within = Within(heads, self.decays, [q], [k], self.parts)
        self.entering = self.parts(q * self.decays.since)
        self.leaving = self.parts(k * self.decays.until)

    def parts(self, x: Array) -> Parts:
        """Returns what is multiplied of numbers: they are rounded to the dtype of values."""
        return (x.astype(self.dtype),)

    def stacked(self, x: Parts) -> Parts:
        return tuple(map(self.heads.stack, x))

    def after(self) -> Float[Array, "V K"]:
        """Returns the state that leaves."""
        added = parts_product(self.v, self.leaving, ROWS, ROWS)
        return self.S * self.decays.over_chunk + self.heads.blocks(added)

    def forward(self, levels: Levels) -> Steps[tuple[Float[Array, "C V"], Float[Array, "V K"]]]:
        """Returns the outputs and the state that leaves."""
        (P,) = yield from scores(levels, self.within)
        P, S = self.parts(P), self.parts(self.S)
        yield
        read = parts_product(self.entering, S, COLUMNS, COLUMNS)
        return read + times(self.heads, P, self.v), self.after()

    def backward(
        self,
        levels: Levels,
        do: Float[Array, "C V"],
        dS: Float[Array, "V K"],
        later: Float[Array, "C C"],
    ) -> Steps[tuple[Array, ...]]:
        """Returns the gradients of q, k, v, the entering state and the log-decays.

        Args:
          levels: of pairs.
          do: the gradient of the outputs.
          dS: that of the state that leaves.
          later: 1 between a token and those that are not earlier.
        """
        heads, decays, v = self.heads, self.decays, self.v
        do, d_state, S = self.parts(do), self.parts(dS), self.parts(self.S)
        stacked = self.stacked(v), self.stacked(do)
        yield
        dP, turned = (parts_product(x, y, COLUMNS, COLUMNS) for x, y in zip((do, v), stacked))
        entering = parts_product(do, S, COLUMNS, ROWS)
        leaving = parts_product(v, d_state, COLUMNS, ROWS)
        dv = parts_product(self.leaving, d_state, COLUMNS, COLUMNS)
        yield
        (dq,), (dk,) = yield from gradients(levels, self.within, [dP], [[turned]])
        (P,) = yield from scores(levels, self.within)
        P, leaving, kept = self.parts(P), decays.until * leaving, dS * decays.over_chunk
        dq, dk = dq + decays.since * entering, dk + leaving
        dG = parts_of(self.q * dq - self.k * dk, self.dtype)
        at_end = (self.k * leaving).sum(0, keepdims=True) + (kept * self.S).sum(0, keepdims=True)
        yield
        dv = dv + heads.unstack(parts_product(P, do, ROWS, ROWS))
        dg = parts_product((later,), dG, COLUMNS, ROWS) + at_end
        dg = jnp.where(self.g > FLOOR, dg, 0.0)
        d_first = kept + heads.blocks(parts_product(do, self.entering, ROWS, ROWS))
        return dq, dk, dv, d_first, dg
