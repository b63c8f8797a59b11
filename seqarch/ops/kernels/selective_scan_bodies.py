"""What the kernels of the selective scan compute in a chunk: C tokens of one row, E channels.

A state is [N, E]: N sublanes and E lanes. Channels are taken W at a time, their tokens one after
the other, in float32. Sums over states or channels are products on the matrix unit. One operand is
the states of G = 128 / N tokens, stacked; the other has the N numbers of each token in the columns
of that token's states, and zeros elsewhere. So y_t = C_t . h_t is for G tokens

    [G, W] = [G, G N] [G N, W]

A is divided by ln 2: exp(delta A) = 2^(delta A / ln 2).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels.selective_scan_arrays import (
    Given,
    Ref,
    ScanGradients,
    ScanTokens,
    Scratch,
    Spread,
    cast_product,
    column,
    in_float32,
    over_channels,
    over_groups,
    over_states,
    own_columns,
    spread_columns,
    spread_rows,
    stack,
    states_of,
)
from seqarch.types import Array, Float


def forward_body(
    tokens: ScanTokens,
    C: Ref,
    h0: Ref,
    y: Ref,
    entering: Ref,
    h: Ref,
    spread: Spread,
    *,
    width: int,
    negative: bool,
) -> None:
    """Computes the outputs of a chunk and the state after it.

    Args:
      tokens: the chunk.
      C: output projections in the columns of their states [1, C, G N].
      h0: the row's initial state [1, N, E].
      y: the outputs [1, C, E].
      entering: the state before the chunk [1, 1, N, E].
      h: the state so far [1, N, E].
      spread: scratch.
      width: channels W at a time.
      negative: whether decays are 2 exp(delta A) - 1.
    """
    N = h.shape[1]
    group = C.shape[2] // N

    @pl.when(pl.program_id(2) == 0)
    def _():
        h[...] = h0[...]

    entering[0, 0] = h[0]
    spread_columns(spread.B, tokens.B)

    def channels(lanes: pl.Slice) -> None:
        step, D = _recurrence(tokens, spread, lanes, negative), tokens.D[:, lanes]

        def turn(first: Array, before: Float[Array, "N W"]) -> Float[Array, "N W"]:
            after = []
            for t in range(group):
                before = step(first + t, before)
                after.append(before)
            at = pl.ds(first, group)
            read = cast_product(C[0, at, :], stack(after), C.dtype)
            y[0, at, lanes] = (read + D * in_float32(tokens.x[0, at, lanes])).astype(y.dtype)
            return before

        h[0, :, lanes] = over_groups(y.shape[1], group, turn, h[0, :, lanes])

    over_channels(h.shape[2], width, channels)


def backward_body(
    tokens: ScanTokens,
    given: Given,
    to: ScanGradients,
    scratch: Scratch,
    *,
    width: int,
    negative: bool,
) -> None:
    """Computes the gradients of a chunk, after computing its states once more.

    With the decay a_t of the state before token t, the gradient g_t of h_t and that of delta_t A:

        g_t = C_t dy_t + a_{t+1} g_{t+1}        e_t = g_t exp(delta_t A) h_{t-1}
        dx_t = delta_t (B_t . g_t) + D dy_t     ddelta_t = sum_n A e_t + x_t (B_t . g_t)
        dB_t = sum_e delta_t x_t g_t            dC_t = sum_e dy_t h_t
        dA = sum_t delta_t e_t                  dD = sum_t x_t dy_t

    where e_t is zero if token t forgets the state, and twice that with negative eigenvalues.

    Args:
      tokens: the chunk.
      given: what belongs to its outputs.
      to: the gradients.
      scratch: scratch.
      width: channels W at a time.
      negative: whether decays are 2 exp(delta A) - 1.
    """
    (_, count, size), N = tokens.x.shape, to.h.shape[1]
    group, dtype = given.B.shape[2] // N, given.B.dtype
    spread, states = scratch.spread, scratch.states
    own = own_columns(group, N)

    @pl.when(pl.program_id(2) == 0)
    def _():
        to.h[...] = given.dh[...]
        to.A[...], to.D[...] = jnp.zeros_like(to.A), jnp.zeros_like(to.D)

    spread_columns(spread.B, tokens.B)
    spread_columns(scratch.C, given.C)
    to.B[...], to.C[...] = jnp.zeros_like(to.B), jnp.zeros_like(to.C)

    def add_own(total: Ref, first: Array, product: Float[Array, "G GN"]) -> None:
        """Adds each token's product with its own states."""
        row = pl.ds(jax.lax.shift_right_logical(first, int(math.log2(group))), 1)
        total[0, 0, row, :] += jnp.where(own, product, 0).sum(0, keepdims=True)

    def channels(lanes: pl.Slice) -> None:
        step = _recurrence(tokens, spread, lanes, negative)
        A, D = tokens.A[:, lanes], tokens.D[:, lanes]
        spread_rows(scratch.dy, in_float32(given.dy[0, :, lanes]))
        entering = given.entering[0, 0, :, lanes]
        states[:N, :] = entering

        def again(first: Array, h: Float[Array, "N W"]) -> Float[Array, "N W"]:
            after = []
            for t in range(group):
                h = step(first + t, h)
                states[states_of(first + t + 1, N), :] = h
                after.append(h)
            dy = given.dy[0, pl.ds(first, group), lanes]
            add_own(to.C, first, cast_product(dy, stack(after), dtype, over=1))
            return h

        def back(first: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dh, dA, dD = carry
            gradients, exponents = [None] * group, [None] * group
            for t in reversed(range(group)):
                delta, dy = (over_states(ref, first + t, N) for ref in (spread.delta, scratch.dy))
                gradients[t] = dh + column(scratch.C, first + t, N, width) * dy
                kept = _kept(tokens, first + t, gradients[t])
                dh, slope = _decayed(kept, delta * A, negative)
                exponent = slope * states[states_of(first + t, N), :]
                dA = dA + exponent * delta
                exponents[t] = exponent * A
            at, gradients = pl.ds(first, group), stack(gradients)
            rows = (ref[0, at, lanes] for ref in (tokens.x, tokens.delta, given.dy))
            x, delta, dy = map(in_float32, rows)
            by_B = cast_product(given.B[0, at, :], gradients, dtype)
            by_A = cast_product(own.astype(dtype), stack(exponents), dtype)
            to.delta[0, at, lanes] = math.log(2) * by_A + by_B * x
            to.x[0, at, lanes] = (by_B * delta + D * dy).astype(to.x.dtype)
            add_own(to.B, first, cast_product(delta * x, gradients, dtype, over=1))
            return dh, dA, dD + x * dy

        over_groups(count, group, again, entering)
        carry = to.h[0, :, lanes], to.A[0, :, lanes], jnp.zeros((group, width), jnp.float32)
        dh, dA, dD = over_groups(count, group, back, carry, reverse=True)
        to.h[0, :, lanes], to.A[0, :, lanes] = dh, dA
        to.D[0, :, lanes] += dD.sum(0, keepdims=True)

    over_channels(size, width, channels)


def _recurrence(
    tokens: ScanTokens, spread: Spread, lanes: pl.Slice, negative: bool
) -> Callable[[Array, Float[Array, "N W"]], Float[Array, "N W"]]:
    """Returns the function from a token and the state before it to the state after it."""
    (N, _), A = tokens.A.shape, tokens.A[:, lanes]
    delta = tokens.delta[0, :, lanes]
    spread_rows(spread.delta, delta)
    spread_rows(spread.value, delta * in_float32(tokens.x[0, :, lanes]))

    def step(t: Array, h: Float[Array, "N W"]) -> Float[Array, "N W"]:
        kept, _ = _decayed(_kept(tokens, t, h), over_states(spread.delta, t, N) * A, negative)
        return kept + over_states(spread.value, t, N) * column(spread.B, t, N, lanes.size)

    return step


def _kept(tokens: ScanTokens, t: Array, h: Float[Array, "N W"]) -> Float[Array, "N W"]:
    """Returns what is left of a state, or of a gradient, as token t may forget what was before."""
    return h if tokens.keep is None else h * tokens.keep[0, 0, t]


def _decayed(
    h: Float[Array, "N W"], exponent: Float[Array, "N W"], negative: bool
) -> tuple[Float[Array, "N W"], Float[Array, "N W"]]:
    """Returns h times the decay, and times the decay's slope."""
    slope = h * jnp.exp2(exponent + 1 if negative else exponent)
    return (slope - h if negative else slope), slope
