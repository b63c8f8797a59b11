"""Arrays in a core's memory that the kernels of the selective scan work on, and loops over them.

C tokens, E channels of which W are computed at a time, N states of a channel. The states of
G = 128 / N tokens are the 128 rows of an operand of the matrix unit.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.call import unrolled
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.types import Array, DTypeLike, Float

UNROLL = 4  # groups in a turn of a loop: one is on the matrix unit while others are on the vector's
Ref = Any


class ScanTokens(NamedTuple):
    """What both passes read.

    Attributes:
      x: inputs [1, C, E].
      delta: step sizes [1, C, E], float32.
      B: input projections [1, N, C], float32.
      keep: [1, 1, C], 0 where the state is forgotten before a token, else 1; None: all are 1.
      A: state matrix [N, E] over ln 2, float32.
      D: weights of the skip connection [1, E], float32.
    """

    x: Ref
    delta: Ref
    B: Ref
    keep: Ref | None
    A: Ref
    D: Ref


class Spread(NamedTuple):
    """Scratch for tokens, laid out so that loads repeat their numbers over channels or states.

    Attributes:
      B: [C N, LANES], each number of B_t over all lanes.
      delta: [W / LANES, C, LANES].
      value: delta x, likewise.
    """

    B: Ref
    delta: Ref
    value: Ref


class Given(NamedTuple):
    """What the backward pass reads besides.

    Attributes:
      B: input projections in the columns of their states [1, C, G N].
      C: output projections [1, N, C], float32.
      entering: the state before the chunk [1, 1, N, E].
      dy: cotangent of the outputs [1, C, E].
      dh: that of the row's last state [1, N, E].
    """

    B: Ref
    C: Ref
    entering: Ref
    dy: Ref
    dh: Ref


class ScanGradients(NamedTuple):
    """What the backward pass computes, in float32 but for x.

    Attributes:
      x: [1, C, E], in the dtype of x.
      delta: [1, C, E].
      B, C: [1, 1, C / G, G N], G tokens side by side; summed over the block's channels.
      A: [1, N, E], of the row.
      D: [1, 1, E], of the row.
      h: gradient of the state so far [1, N, E], in the end of the initial one.
    """

    x: Ref
    delta: Ref
    B: Ref
    C: Ref
    A: Ref
    D: Ref
    h: Ref


def gradient_shapes(
    x: Float[Array, "B T E"], h: Float[Array, "B N E"], parts: tuple[int, ...]
) -> ScanGradients:
    """Returns the shapes of the gradients of all rows; `parts` is that of B's and C's."""
    weights = len(x), 1, x.shape[2]
    shapes = ScanGradients(x.shape, x.shape, parts, parts, h.shape, weights, h.shape)
    dtypes = ScanGradients(x.dtype, *[jnp.float32] * 6)
    return ScanGradients(*map(jax.ShapeDtypeStruct, shapes, dtypes))


class Scratch(NamedTuple):
    """Scratch of the backward pass.

    Attributes:
      spread: of the tokens.
      C: [C N, LANES], as `Spread.B`.
      dy: [W / LANES, C, LANES].
      states: [(C + 1) N, W], the states before the tokens and the last one.
    """

    spread: Spread
    C: Ref
    dy: Ref
    states: Ref


def cast_product(a: Array, b: Array, dtype: DTypeLike, *, over: int = 0) -> Float[Array, "G _"]:
    """Returns a [G, K] times b [K, M], or b^T [M, K] with over=1, both cast to a dtype."""
    return product(a.astype(dtype), b.astype(dtype), COLUMNS, over)


def own_columns(group: int, N: int) -> Array:
    """Returns where a column [G, G N] is of the row's token."""
    row, column = (iota((group, group * N), axis) for axis in (ROWS, COLUMNS))
    return row == (column >> int(math.log2(N)))  # a division is not compiled for absent TPUs


def stack(states: list[Float[Array, "N W"]]) -> Float[Array, "GN W"]:
    return jnp.concatenate(states, 0)


def in_float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def spread_columns(to: Ref, columns: Ref) -> None:
    """Writes the numbers [1, N, C] of each token over all lanes, [C N, LANES]."""
    _, N, count = columns.shape
    for t in range(count):
        to[t * N : (t + 1) * N, :] = jnp.broadcast_to(columns[0, :, t : t + 1], (N, LANES))


def spread_rows(to: Ref, rows: Float[Array, "C W"]) -> None:
    """Writes rows to [W / LANES, C, LANES], where the load of one repeats it over the states."""
    for i in range(len(to)):
        to[i] = rows[:, i * LANES : (i + 1) * LANES]


def over_states(ref: Ref, t: Array, N: int) -> Float[Array, "N W"]:
    """Returns the numbers of token t, repeated over the states."""
    tiles = (jnp.broadcast_to(ref[i, pl.ds(t, 1), :], (N, LANES)) for i in range(len(ref)))
    return jnp.concatenate(list(tiles), 1)


def column(ref: Ref, t: Array, N: int, width: int) -> Float[Array, "N W"]:
    """Returns the N numbers of token t, repeated over the channels."""
    return jnp.tile(ref[states_of(t, N), :], (1, width // LANES))


def states_of(t: Array, N: int) -> pl.Slice:
    return pl.ds(pl.multiple_of(t * N, N), N)


def over_groups(
    count: int, group: int, turn: Callable, carry: Any, *, reverse: bool = False
) -> Any:
    """Returns the carry after a turn for the first token of each group."""

    def body(i: Array, carry: Any) -> Any:
        i = count // group - 1 - i if reverse else i
        return turn(pl.multiple_of(i * group, group), carry)

    return jax.lax.fori_loop(0, count // group, body, carry, unroll=unrolled(UNROLL))


def over_channels(size: int, width: int, do: Callable[[pl.Slice], None]) -> None:
    def body(i: Array, _: None) -> None:
        do(pl.ds(pl.multiple_of(i * width, width), width))

    jax.lax.fori_loop(0, size // width, body, None)
