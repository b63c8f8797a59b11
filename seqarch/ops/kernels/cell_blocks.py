"""What a turn of the kernels of a cell reads and writes, and what of it a core's memory holds."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.cell_bodies import Masks
from seqarch.ops.kernels.cells import CellKernel
from seqarch.ops.numerics import fill
from seqarch.types import Array, DTypeLike, Float

MEMORY = 16 * 2**20  # bytes of a core's memory where the device is not known: those of a v4
BUFFERS = 8 * 2**20  # bytes of all but the weights, at least
REST = 2**20  # of these bytes, those of masks and of what the compiler adds
TOKENS = 16  # of a block at most
ROWS = 64  # of a block at most: more leave their registers, and take long to compile
TILE = 8  # rows in a register


def memory() -> int:
    """Returns the bytes of memory of a core of the device, which a mesh in force tells."""
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except ValueError:
        return MEMORY


def whole(x: Array) -> pl.BlockSpec:
    """Returns the block of an array that stays in the core's memory."""
    return pl.BlockSpec(x.shape, lambda i, t: (0,) * x.ndim, pipeline_mode=pl.Buffered(1))


class CellBlocks:
    """What a turn of the grid reads and writes; turns are over rows and over chunks of tokens.

    Attributes:
      parameters: the compiler's options.
      grid: number of turns over each.
      state: block of arrays [1, B, E].
      state_shape: theirs, with padding.
    """

    def __init__(
        self,
        cell: CellKernel,
        u: Float[Array, "T B U"],
        units: int,
        W: Array,
        *,
        reverse: bool = False,
    ):
        """Takes packed weights W, which stay in the core's memory."""
        self._time, self._batch, _ = u.shape
        self._dtype = u.dtype
        weights = W.size * W.dtype.itemsize
        limit = max(MEMORY, weights + BUFFERS)
        self.parameters = pltpu.CompilerParams(("parallel", "arbitrary"), vmem_limit_bytes=limit)
        free = limit - weights - REST
        of_token, of_row = _row_bytes(cell, units, u.dtype.itemsize)
        most = max(TILE, free // (of_token + of_row) // TILE * TILE)
        self._rows = min(-(-self._batch // TILE) * TILE, most, ROWS)
        fitting = max(1, (free - self._rows * of_row) // (self._rows * of_token))
        power = 1 << fitting.bit_length() - 1  # which divides most lengths
        self._chunk = min(TOKENS, power, self._time)
        self._rest = -self._time % self._chunk, -self._batch % self._rows
        time, batch = self._time + self._rest[0], self._batch + self._rest[1]
        self._padded = time, batch
        self.grid = batch // self._rows, time // self._chunk
        last = self.grid[1] - 1
        self._at = (lambda t: last - t) if reverse else (lambda t: t)
        self.state = pl.BlockSpec((1, self._rows, units), lambda i, t: (0, i, 0))
        self.state_shape = jax.ShapeDtypeStruct((1, batch, units), jnp.float32)

    def tokens(self, lanes: int) -> pl.BlockSpec:
        """Returns the block of arrays [T, B, lanes]."""
        return pl.BlockSpec((self._chunk, self._rows, lanes), lambda i, t: (self._at(t), i, 0))

    def tokens_shape(self, lanes: int, dtype: DTypeLike | None = None) -> jax.ShapeDtypeStruct:
        """Returns their shape with padding, in u's dtype or another one."""
        return jax.ShapeDtypeStruct((*self._padded, lanes), dtype or self._dtype)

    def padded(self, x: Float[Array, "T B L"]) -> Array:
        """Adds tokens and rows of zeros."""
        time, rows = self._rest
        return jnp.pad(x, [(0, time), (0, rows), (0, 0)]) if time or rows else x

    def padded_state(self, h: Float[Array, "1 B E"]) -> Array:
        """Adds rows of zeros."""
        return fill(h, 1, self._rows)

    def cut(self, x: Array) -> Float[Array, "T B L"]:
        """Returns an array without its padding."""
        return x[: self._time, : self._batch]

    def cut_state(self, h: Array) -> Float[Array, "1 B E"]:
        """Returns a state without its padding."""
        return h[:, : self._batch]

    def masks(self, masks: Masks) -> Masks:
        """Returns the numbers of tokens over lanes; tokens of the padding are not valid."""
        valid = masks.valid
        if valid is None and self._rest[0]:
            valid = jnp.ones((self._time, self._batch), jnp.float32)
        over = lambda x: jnp.broadcast_to(x[..., None], (*x.shape, LANES))
        return jax.tree.map(lambda x: self.padded(over(x)), Masks(masks.keep, valid))

    def of(self, masks: Masks) -> Masks:
        """Returns the blocks of what `masks` returns."""
        valid = masks.valid is not None or self._rest[0]
        mask = self.tokens(LANES)
        return Masks(None if masks.keep is None else mask, mask if valid else None)


def _row_bytes(cell: CellKernel, units: int, itemsize: int) -> tuple[int, int]:
    """Returns the bytes in the backward pass of a row's tokens, each, and of the rest of the row.

    Blocks are there twice: one is computed while the other one is copied. The rest are the states,
    and what does not stay in registers: the gradients of W h in float32 and bfloat16, and of h.
    """
    lanes = cell.gates * 3 + cell.apart + 2  # u, s, d_u; d_s; h, d_h
    of_token = lanes * itemsize + (cell.states - 1) * 4
    spilled = cell.gates * (4 + 2) + 4
    return 2 * of_token * units, (2 * 2 * cell.states * 4 + spilled) * units
