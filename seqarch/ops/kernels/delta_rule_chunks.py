"""Chunks of the delta rule with a decay per head, as the bodies of Pallas kernels see them.

With G_t = g_1 + ... + g_t within a chunk and S the state that enters it, a head erases what the
state holds at r_t, u_t = S_{t-1}^T r_t, where it writes v_t. What it adds, d_t = v_t - u_t, solves
a triangular system, and is to outputs and states what values are to those of linear attention:

    d_t + sum_{s<t} exp(G_{t-1} - G_s) (r_t . k_s) d_s = v_t - exp(G_{t-1}) S^T r_t
    o_t = exp(G_t) S^T q_t + sum_{s<=t} exp(G_t - G_s) (q_t . k_s) d_s
    S' = exp(G_C) S + sum_s exp(G_C - G_s) k_s d_s^T

In matrices, (I + A) D = X, O = E S + P D.

Source: Yang et al. 2025, "Gated delta networks: improving Mamba2 with delta rule", section 3.3;
Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length",
section 3 (the WY form).
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from seqarch.ops.kernels.delta_rule_decays import DeltaDecays
from seqarch.ops.kernels.delta_rule_heads import UnitHeads, after_a_token, times
from seqarch.ops.kernels.delta_rule_solve import solve, unit_inverses
from seqarch.ops.kernels.matrices import COLUMNS, ROWS
from seqarch.ops.kernels.parts import Parts, parts_of, parts_product
from seqarch.types import Array, Float


class Adding:
    """A chunk of a unit of heads that adds D, where (I + A) D = X.

    Attributes:
      heads: of the unit.
      dtype: of products.
      A32: A of each head.
      A: the same, in parts.
      inverse: (I + A)^-1 of each head, rounded.
      D: what is added.
    """

    def right_side(self) -> Float[Array, "C V"]:
        """Returns X."""
        raise AssertionError(f"{type(self).__name__} does not define right_side")


class DeltaChunk(Adding):
    """A chunk of a unit of heads.

    Attributes:
      q, k, r, S: queries, keys, reads and the entering state, in parts.
      P, A: the scores of queries and of reads with keys, times the decays between them, in parts.
      visible, seen: those decays.
    """

    def __init__(self, heads: UnitHeads, unit: int, decays: DeltaDecays | None, q, k, v, r, S):
        self.heads, self.unit, self.decays, self.dtype = heads, unit, decays, v.dtype
        self.v, self.state = v, S
        self.q, self.k, self.r, self.S = (self.parts(x) for x in (q, k, r, S))
        keys = tuple(map(heads.stack, self.k))
        qk, rk = (parts_product(x, keys, COLUMNS, COLUMNS) for x in (self.q, self.r))
        self.visible = self._between()
        self.seen = after_a_token(self.visible, 0.0)
        self.A32 = rk * self.seen
        self.P, self.A = self.parts(qk * self.visible), self.parts(self.A32)

    def parts(self, x: Array) -> Parts:
        """Returns a number in parts of the dtype of values."""
        return parts_of(x, self.dtype)

    def _between(self) -> Float[Array, "C L"]:
        if self.decays is None:
            return jnp.where(self.heads.causal, 1.0, 0.0)
        return self.decays.between(self.unit)

    def since_first(self, x: Float[Array, "C X"]) -> Float[Array, "C X"]:
        """Returns x times the decays of the entering state until each token."""
        return x if self.decays is None else x * self._spread(self.decays.since_first, x)

    def since_before(self, x: Float[Array, "C X"]) -> Float[Array, "C X"]:
        """Returns x times the decays of the entering state until before each token."""
        if self.decays is None:
            return x
        return x * after_a_token(self._spread(self.decays.since_first, x), 1.0)

    def until_last(self, x: Float[Array, "C X"]) -> Float[Array, "C X"]:
        """Returns x times the decays of each token until the end of the chunk."""
        return x if self.decays is None else x * self._spread(self.decays.until_last, x)

    def over_chunk(self, S: Float[Array, "K V"]) -> Float[Array, "K V"]:
        """Returns a state times the decay over the chunk."""
        if self.decays is None:
            return S
        return S * self._spread(self.decays.since_first, S)[self.heads.size - 1 :]

    def _spread(self, columns: Float[Array, "L R"], x: Float[Array, "C X"]) -> Array:
        return self.decays.spread(columns, self.unit, x.shape[1] // self.heads.count)

    def right_side(self) -> Float[Array, "C V"]:
        return self.v - self.since_before(parts_product(self.r, self.S, COLUMNS, ROWS))

    def after(self) -> Float[Array, "K V"]:
        """Returns the state that leaves the chunk."""
        added = parts_product(self.k, self.parts(self.until_last(self.D)), ROWS, ROWS)
        return self.over_chunk(self.state) + self.heads.blocks(added)

    def output(self) -> Float[Array, "C V"]:
        """Returns the outputs."""
        within = times(self.heads, self.P, self.parts(self.D))
        return self.since_first(parts_product(self.q, self.S, COLUMNS, ROWS)) + within


def add(chunks: Sequence[Adding]) -> None:
    """Computes what chunks of several units add, in step: a product waits for that of its own unit.

    Args:
      chunks: get `inverse` and `D`.
    """
    heads, dtype = chunks[0].heads, chunks[0].dtype
    inverses = unit_inverses(heads, [c.A32 for c in chunks], dtype)
    X = [c.right_side() for c in chunks]
    for c, inverse in zip(chunks, inverses):
        c.inverse = (inverse,)
    for c, D in zip(chunks, solve_all(chunks, X, times)):
        c.D = D


def solve_all(
    chunks: Sequence[Adding], X: list[Float[Array, "C V"]], times: Callable
) -> list[Float[Array, "C V"]]:
    """Returns the D of (I + A) D = X of chunks; see `solve`."""
    inverses, A = zip(*((c.inverse, c.A) for c in chunks))
    return solve(chunks[0].heads, list(inverses), list(A), X, times)
