"""The selective scan as kernels for a GPU, through Triton: states never leave the registers.

Each program has some channels of a row, and takes its tokens one after the other. The forward pass
keeps the state before each chunk, from which the backward pass computes those within once more; a
chunk is so short that all its states fit the registers. All is in float32.

It is compiled here for GPUs that are not there; no GPU has run it yet.

Source: seqarch.ops.kernels.selective_scan, whose arguments it has.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.selective_scan_arrays import ScanGradients, ScanTokens, gradient_shapes
from seqarch.ops.sharded_rows import row_devices
from seqarch.types import Array, Float

# Tokens of a chunk, and states of a program at a time. With twice as many, NVIDIA's assembler moves
# some of the backward pass's from registers to memory.
CHUNK, STATES = 8, 512
WIDTHS = (32, 16)  # channels of a program
PARAMETERS = plgpu.CompilerParams(num_warps=4, num_stages=1)


def why_not(x: Float[Array, "B T E"], A: Float[Array, "E N"]) -> str | None:
    """Returns why the kernels cannot scan arrays of these shapes, in words; None: they can."""
    (batch, _, E), (_, N) = x.shape, A.shape
    if E % WIDTHS[-1]:
        return f"{E} channels are no multiple of {WIDTHS[-1]}"
    if N & (N - 1) or N * WIDTHS[-1] > STATES:
        return f"{N} states of a channel are no power of two up to {STATES // WIDTHS[-1]}"
    if batch % row_devices():
        return f"{batch} rows do not divide over {row_devices()} devices"
    return None


def chunk_of(time: int, N: int) -> int:
    """Returns the tokens of a chunk."""
    return CHUNK


def forward(negative, chunk, rows, whole):
    """Returns the outputs, the states before chunks [B, M, N, E] and the final state."""
    x, delta, B, C, h0, keep = rows
    blocks, shape = _Blocks(x.shape, h0.shape[1], chunk), jax.ShapeDtypeStruct
    call = kernel_call(
        functools.partial(_forward_body, chunk=chunk, negative=negative),
        grid=blocks.grid,
        in_specs=[blocks.tokens(keep), blocks.narrow, blocks.state],
        out_specs=[blocks.wide, blocks.entering, blocks.state],
        out_shape=[
            shape(x.shape, x.dtype),
            shape((len(x), x.shape[1] // chunk, *h0.shape[1:]), jnp.float32),
            shape(h0.shape, jnp.float32),
        ],
        compiler_params=PARAMETERS,
        name="selective_scan_forward",
    )
    return call(_tokens(x, delta, B, keep, *whole), C, h0)


def backward(negative, chunk, rows, whole):
    """Returns the gradients, those of parameters for each row, and of B and C for each program."""
    x, delta, B, C, keep, entering, dy, dh = rows
    blocks = _Blocks(x.shape, dh.shape[1], chunk)
    by_program = len(x), blocks.grid[1], x.shape[1], dh.shape[1]
    call = kernel_call(
        functools.partial(_backward_body, chunk=chunk, negative=negative),
        grid=blocks.grid,
        in_specs=[blocks.tokens(keep), blocks.narrow, blocks.entering, blocks.wide, blocks.state],
        out_specs=[blocks.gradients()],
        out_shape=[gradient_shapes(x, dh, by_program)],
        compiler_params=PARAMETERS,
        name="selective_scan_backward",
    )
    return call(_tokens(x, delta, B, keep, *whole), C, entering, dy, dh)[0]


def _tokens(x, delta, B, keep, A, D) -> ScanTokens:
    return ScanTokens(x, delta, B, keep, A.T / math.log(2), D[None])


class _Blocks:
    """What a program reads and writes; programs are over rows and channels.

    Attributes:
      grid: number of programs over each.
      wide: block of arrays [B, T, E].
      narrow: of [B, T, N].
      state: of [B, N, E].
      entering: of [B, M, N, E], states before chunks.
    """

    def __init__(self, shape: tuple[int, ...], N: int, chunk: int):
        batch, time, E = shape
        fits = (width for width in WIDTHS if E % width == 0 and width * N <= STATES)
        self._size = size = next(fits)
        self._time, self._N = time, N
        self.grid = (batch, E // size)
        self.wide = pl.BlockSpec((None, time, size), lambda b, e: (b, 0, e))
        self.narrow = pl.BlockSpec((None, time, N), lambda b, e: (b, 0, 0))
        self.state = pl.BlockSpec((None, N, size), lambda b, e: (b, 0, e))
        self.entering = pl.BlockSpec((None, time // chunk, N, size), lambda b, e: (b, 0, 0, e))

    def tokens(self, keep: Array | None) -> ScanTokens:
        """Returns the blocks of the tokens."""
        row = pl.BlockSpec((None, self._time), lambda b, e: (b, 0))
        A = pl.BlockSpec((self._N, self._size), lambda b, e: (0, e))
        D = pl.BlockSpec((None, self._size), lambda b, e: (0, e))
        return ScanTokens(self.wide, self.wide, self.narrow, None if keep is None else row, A, D)

    def gradients(self) -> ScanGradients:
        """Returns the blocks of the gradients."""
        by_program = pl.BlockSpec((None, None, self._time, self._N), lambda b, e: (b, e, 0, 0))
        weights = pl.BlockSpec((None, None, self._size), lambda b, e: (b, 0, e))
        wide, state = self.wide, self.state
        return ScanGradients(wide, wide, by_program, by_program, state, weights, state)


def _forward_body(tokens, C, h0, y, entering, final, *, chunk: int, negative: bool) -> None:
    step, D = _recurrence(tokens, negative), tokens.D[...]

    def turn(m: Array, h: Float[Array, "N W"]) -> Float[Array, "N W"]:
        entering[m] = h
        for i in range(chunk):
            t = m * chunk + i
            h, *_ = step(t, h)
            read = (h * _row(C, t)[:, None]).sum(0)
            y[t] = (read + D * _row(tokens.x, t)).astype(y.dtype)
        return h

    final[...] = jax.lax.fori_loop(0, entering.shape[0], turn, h0[...])


def _backward_body(
    tokens, C, entering, dy, dh, to: ScanGradients, *, chunk: int, negative: bool
) -> None:
    """Computes the gradients by the equations of seqarch.ops.kernels.selective_scan_bodies."""
    step, D, A = _recurrence(tokens, negative), tokens.D[...], tokens.A[...]
    count = entering.shape[0]

    def turn(m: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        dh, dA, dD = carry
        first = (count - 1 - m) * chunk
        h = entering[count - 1 - m]
        before, after = [], []
        for i in range(chunk):
            before.append(h)
            h, *factors = step(first + i, h)
            after.append((h, *factors))
        for i in reversed(range(chunk)):
            t, (h, decay, slope) = first + i, after[i]
            x, delta, dy_t = (_row(ref, t) for ref in (tokens.x, tokens.delta, dy))
            to.C[t] = (h * dy_t[None]).sum(1)
            dh += _row(C, t)[:, None] * dy_t[None]
            exponent = dh * slope * before[i]
            by_B = (dh * _row(tokens.B, t)[:, None]).sum(0)
            to.B[t] = (dh * (delta * x)[None]).sum(1)
            to.x[t] = (by_B * delta + D * dy_t).astype(to.x.dtype)
            to.delta[t] = math.log(2) * (A * exponent).sum(0) + by_B * x
            dh, dA, dD = dh * decay, dA + exponent * delta[None], dD + x * dy_t
        return dh, dA, dD

    carry = dh[...], jnp.zeros(A.shape, jnp.float32), jnp.zeros(D.shape, jnp.float32)
    to.h[...], to.A[...], to.D[...] = jax.lax.fori_loop(0, count, turn, carry)


def _recurrence(tokens: ScanTokens, negative: bool) -> Callable:
    """Returns the function from a token and the state before it to the state after it.

    It also returns the decay, and its slope, both 0 where the token forgets the state.
    """
    A = tokens.A[...]

    def step(t: Array, h: Float[Array, "N W"]) -> tuple[Array, Array, Array]:
        x, delta = _row(tokens.x, t), _row(tokens.delta, t)
        slope = jnp.exp2(delta[None] * A)
        decay = slope
        if negative:
            slope = 2 * slope
            decay = slope - 1
        if tokens.keep is not None:
            decay, slope = decay * tokens.keep[t], slope * tokens.keep[t]
        return decay * h + (delta * x)[None] * _row(tokens.B, t)[:, None], decay, slope

    return step


def _row(ref, t: Array) -> Array:
    return ref[t].astype(jnp.float32)
