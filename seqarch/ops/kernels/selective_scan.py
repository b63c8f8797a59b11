"""The selective scan as kernels for a TPU: the states of a chunk never leave the core.

The forward pass keeps the state before each chunk, from which the backward pass computes those
within once more. Products are in bfloat16, summed in float32, where x, B and C are given in
bfloat16. All else is in float32.

Source: Gu and Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", section
3.3, for the recomputation; seqarch.ops.selective_scan for the equations.
"""

import functools
import math
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.selective_scan_arrays import (
    UNROLL,
    Given,
    ScanGradients,
    ScanTokens,
    Scratch,
    Spread,
    gradient_shapes,
)
from seqarch.ops.kernels.selective_scan_bodies import backward_body, forward_body
from seqarch.ops.numerics import fill
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.types import Array, Float

STATES = (8, 16)  # of a channel, N
CHUNK = 128  # tokens
BLOCK = 1024  # channels of a chunk at most: the blocks of a turn fit 16 MiB of a core's memory
PARAMETERS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
WIDTHS = (256, 128)  # channels at a time, whose states stay in registers


def why_not(x: Float[Array, "B T E"], A: Float[Array, "E N"]) -> str | None:
    """Returns why the kernels cannot scan arrays of these shapes, in words; None: they can."""
    (batch, _, E), (_, N) = x.shape, A.shape
    if E % LANES:
        return f"{E} channels are no multiple of {LANES}"
    if N not in STATES:
        return f"{N} states of a channel are none of {STATES}"
    if batch % row_devices():
        return f"{batch} rows do not divide over {row_devices()} devices"
    return None


def chunk_of(time: int, N: int) -> int:
    """Returns the tokens of a chunk, which are a multiple of those that fill the lanes."""
    least = UNROLL * LANES // N
    return min(CHUNK, -(-time // least) * least)


def selective_scan(
    kernels: ModuleType,
    x: Float[Array, "B T E"],
    delta: Float[Array, "B T E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B T N"],
    C: Float[Array, "B T N"],
    D: Float[Array, "E"],
    h0: Float[Array, "B N E"],
    keep: Float[Array, "B T"] | None,
    negative: bool,
) -> tuple[Float[Array, "B T E"], Float[Array, "B N E"]]:
    """Returns the outputs and the final state; see seqarch.ops.selective_scan.

    Args:
      kernels: the module of the kernels: this one, or that for a GPU.
      x: as there, as are `delta`, `A`, `B`, `C`, `D` and `h0`; its `why_not` has nothing against
        them.
      keep: 0 where the state is forgotten before a token, else 1; None: all are 1.
      negative: whether decays are 2 exp(delta A) - 1.
    """
    time = x.shape[1]
    chunk = kernels.chunk_of(time, A.shape[1])
    halves = all(array.dtype == jnp.bfloat16 for array in (x, B, C))
    B, C = (array.astype(jnp.bfloat16 if halves else jnp.float32) for array in (B, C))
    x = x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)
    delta, A, D, h0 = (array.astype(jnp.float32) for array in (delta, A, D, h0))
    x, delta, B, C = (fill(array, 1, chunk) for array in (x, delta, B, C))
    keep = None if keep is None else fill(keep.astype(jnp.float32), 1, chunk, 1.0)
    y, h = _scan(kernels, negative, chunk, x, delta, B, C, A, D, h0, keep)
    return y[:, :time], h


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(kernels, negative, chunk, x, delta, B, C, A, D, h0, keep):
    return _forward(kernels, negative, chunk, x, delta, B, C, A, D, h0, keep)[0]


def _forward(kernels, negative, chunk, x, delta, B, C, A, D, h0, keep):
    rows = x, delta, B, C, h0, keep
    y, entering, h = by_rows(functools.partial(kernels.forward, negative, chunk), rows, (A, D))
    return (y, h), (x, delta, B, C, A, D, keep, entering)


def _backward(kernels, negative, chunk, saved, cotangents):
    x, delta, B, C, A, D, keep, entering = saved
    rows = x, delta, B, C, keep, entering, *cotangents
    d = by_rows(functools.partial(kernels.backward, negative, chunk), rows, (A, D))
    dB, dC = (each.sum(1).reshape(B.shape).astype(B.dtype) for each in (d.B, d.C))
    dkeep = None if keep is None else jnp.zeros_like(keep)
    return d.x, d.delta, dB, dC, d.A.sum(0).T, d.D.sum((0, 1)), d.h, dkeep


_scan.defvjp(_forward, _backward)


def forward(negative, chunk, rows, whole):
    """Returns the outputs, the states before chunks [B, M, N, E] and the final state."""
    x, delta, B, C, h0, keep = rows
    blocks = _Blocks(x.shape, h0.shape[1], chunk)
    shape, scratch = jax.ShapeDtypeStruct, blocks.spread()
    call = kernel_call(
        functools.partial(forward_body, width=blocks.width, negative=negative),
        grid=blocks.grid,
        in_specs=[blocks.tokens(keep), blocks.grouped, blocks.state],
        out_specs=[blocks.wide, blocks.entering, blocks.state],
        out_shape=[
            shape(x.shape, x.dtype),
            shape((len(x), blocks.grid[2], *h0.shape[1:]), jnp.float32),
            shape(h0.shape, jnp.float32),
        ],
        scratch_shapes=[scratch],
        compiler_params=PARAMETERS,
        name="selective_scan_forward",
    )
    return call(_tokens(x, delta, B, keep, *whole), _grouped(C), h0)


def backward(negative, chunk, rows, whole):
    """Returns the gradients, those of parameters for each row."""
    x, delta, B, C, keep, entering, dy, dh = rows
    blocks = _Blocks(x.shape, dh.shape[1], chunk, reverse=True)
    (batch, time, _), N, width = x.shape, dh.shape[1], blocks.width
    by_groups = batch, blocks.grid[1], time * N // LANES, LANES
    call = kernel_call(
        functools.partial(backward_body, width=width, negative=negative),
        grid=blocks.grid,
        in_specs=[blocks.tokens(keep), blocks.given()],
        out_specs=[blocks.gradients()],
        out_shape=[gradient_shapes(x, dh, by_groups)],
        scratch_shapes=[
            Scratch(
                blocks.spread(),
                pltpu.VMEM((chunk * N, LANES), jnp.float32),
                pltpu.VMEM((width // LANES, chunk, LANES), jnp.float32),
                pltpu.VMEM(((chunk + 1) * N, width), jnp.float32),
            )
        ],
        compiler_params=PARAMETERS,
        name="selective_scan_backward",
    )
    given = Given(_grouped(B), _columns(C), entering, dy, dh)
    return call(_tokens(x, delta, B, keep, *whole), given)[0]


def _tokens(x, delta, B, keep, A, D) -> ScanTokens:
    keep = None if keep is None else keep[:, None]
    return ScanTokens(x, delta, _columns(B), keep, A.T / math.log(2), D[None])


def _columns(B: Float[Array, "B T N"]) -> Float[Array, "B N T"]:
    return jnp.swapaxes(B, 1, 2).astype(jnp.float32)


def _grouped(B: Float[Array, "B T N"]) -> Float[Array, "B T GN"]:
    """Returns each token's numbers in the columns of its states, among those of G tokens."""
    (_, time, N), group = B.shape, LANES // B.shape[2]
    own = jnp.arange(LANES)[None] // N == jnp.arange(time)[:, None] % group
    return jnp.where(own, jnp.tile(B, (1, 1, group)), 0)


class _Blocks:
    """What a turn of the grid reads and writes; turns are over rows, channels and chunks.

    Attributes:
      grid: number of turns over each.
      width: channels at a time.
      wide: block of arrays [B, T, E].
      grouped: of [B, T, G N].
      state: of [B, N, E].
      entering: of [B, M, N, E], states before chunks.
    """

    def __init__(self, shape: tuple[int, ...], N: int, chunk: int, *, reverse: bool = False):
        batch, time, E = shape
        self.width = next(width for width in WIDTHS if E % width == 0)
        fits = range(self.width, min(E, BLOCK) + 1, self.width)
        self._size = max(size for size in fits if E % size == 0)
        self._N, self._chunk = N, chunk
        self.grid = (batch, E // self._size, time // chunk)
        last = self.grid[2] - 1
        self._at = (lambda t: last - t) if reverse else (lambda t: t)
        at, size = self._at, self._size
        self.wide = pl.BlockSpec((1, chunk, size), lambda b, e, t: (b, at(t), e))
        self.grouped = pl.BlockSpec((1, chunk, LANES), lambda b, e, t: (b, at(t), 0))
        self.state = pl.BlockSpec((1, N, size), lambda b, e, t: (b, 0, e))
        self.entering = pl.BlockSpec((1, 1, N, size), lambda b, e, t: (b, at(t), 0, e))
        self._columns = pl.BlockSpec((1, N, chunk), lambda b, e, t: (b, 0, at(t)))

    def tokens(self, keep: Array | None) -> ScanTokens:
        """Returns the blocks of the tokens."""
        at, size = self._at, self._size
        scalars = pl.BlockSpec(
            (1, 1, self._chunk), lambda b, e, t: (b, 0, at(t)), memory_space=pltpu.SMEM
        )
        return ScanTokens(
            self.wide,
            self.wide,
            self._columns,
            None if keep is None else scalars,
            pl.BlockSpec((self._N, size), lambda b, e, t: (0, e)),
            pl.BlockSpec((1, size), lambda b, e, t: (0, e)),
        )

    def given(self) -> Given:
        """Returns the blocks of what the backward pass reads besides."""
        return Given(self.grouped, self._columns, self.entering, self.wide, self.state)

    def gradients(self) -> ScanGradients:
        """Returns the blocks of the gradients."""
        at, rows = self._at, self._chunk * self._N // LANES
        by_group = pl.BlockSpec((1, 1, rows, LANES), lambda b, e, t: (b, e, at(t), 0))
        weights = pl.BlockSpec((1, 1, self._size), lambda b, e, t: (b, 0, e))
        wide, state = self.wide, self.state
        return ScanGradients(wide, wide, by_group, by_group, state, weights, state)

    def spread(self) -> Spread:
        """Returns the scratch for tokens."""
        tiles = pltpu.VMEM((self.width // LANES, self._chunk, LANES), jnp.float32)
        return Spread(pltpu.VMEM((self._chunk * self._N, LANES), jnp.float32), tiles, tiles)
