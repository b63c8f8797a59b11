"""The GRU's recurrence as kernels for a TPU: its weights stay in a core's memory over all tokens.

The forward pass keeps only the states. The backward pass has the projections of all of them by one
matrix product, and the gradient of the weights by another; between the two a kernel runs through
the tokens in reverse. Products are in the dtype of the weights and summed in float32. Arrays of
tokens are kept in bfloat16 where both u and W are, else in float32.

Source: seqarch.ops.gru for the equations; Diamos et al. 2016, "Persistent RNNs: stashing recurrent
weights on-chip", section 3.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels.call import by_rows, kernel_call, row_devices
from seqarch.ops.kernels.gru_bodies import LANES, Masks, backward_body, forward_body, packed
from seqarch.ops.numerics import dot
from seqarch.types import Array, Bool, Float

MEMORY = 16 * 2**20  # bytes of a core's memory where the device is not known: those of a v4
BLOCK = 2**18  # bytes of a block of states: 24 such are there at once in the backward pass
TOKENS = 16  # of a block at most
ROWS = 64  # of a block at most: more leave their registers, and take long to compile
TILE = 8  # rows in a register


def why_not(u: Float[Array, "T B U"], W: Float[Array, "E U"]) -> str | None:
    """Returns why the kernels cannot compute arrays of these shapes, in words; None: they can."""
    batch, units, most = u.shape[1], len(W), _memory() // 2
    size = W.size * (2 if W.dtype == jnp.bfloat16 else 6)  # float32 as three parts in bfloat16
    if units % LANES:
        return f"{units} units are no multiple of {LANES}"
    if size > most:
        return f"{size / 2**20:.1f} MiB of weights are more than {most // 2**20}"
    if batch % row_devices():
        return f"{batch} rows do not divide over {row_devices()} devices"
    return None


def gru(
    u: Float[Array, "T B U"],
    keep: Float[Array, "T B"] | None,
    valid: Bool[Array, "T B"] | None,
    W: Float[Array, "E U"],
    b: Float[Array, "U"],
    h0: Float[Array, "B E"],
) -> tuple[Float[Array, "T B E"], Float[Array, "B E"]]:
    """Returns all states and, in float32, the last one; see seqarch.ops.gru.

    Args:
      u: projections of the inputs; `why_not` has nothing against them and W.
      keep: 0 where the state is forgotten before a token, else 1; None: all are 1.
      valid: whether a token exists; None: all do.
      W: recurrent weights.
      b: biases.
      h0: the state before the first token.
    """
    W = W if W.dtype == jnp.bfloat16 else W.astype(jnp.float32)
    u = u if u.dtype == W.dtype else u.astype(jnp.float32)
    keep, valid = (None if x is None else x.astype(jnp.float32) for x in (keep, valid))
    return _scan(u, Masks(keep, valid), W, b, h0.astype(jnp.float32))


@jax.custom_vjp
def _scan(u: Array, masks: Masks, W: Array, b: Array, h0: Array) -> tuple[Array, Array]:
    return _forward(u, masks, W, b, h0)[0]


def _forward(u, masks, W, b, h0):
    hs, h = by_rows(_call_forward, (u, masks, h0[None]), (W, b), axis=1)
    return (hs, h[0]), (u, masks, W, b, h0, hs)


def _backward(saved, cotangents):
    u, masks, W, b, h0, hs = saved
    d_hs, d_last = cotangents
    before = _before(hs, h0)
    if masks.keep is not None:
        before = before * masks.keep[..., None].astype(hs.dtype)
    s = dot("tbe,ef->tbf", before.astype(W.dtype), W) + b.astype(jnp.float32)[None, None]
    rows = u, s.astype(u.dtype), before, d_hs, masks, d_last[None]
    d_u, d_n, d_h0 = by_rows(_call_backward, rows, (W,), axis=1)
    d_s = d_u[..., : -len(W)], d_n
    d_W = jnp.concatenate([dot("tbe,tbf->ef", before, d) for d in d_s], 1)
    ones = jnp.ones(d_u.shape[:2], d_u.dtype)
    d_b = jnp.concatenate([dot("tb,tbf->f", ones, d) for d in d_s])
    d_masks = jax.tree.map(jnp.zeros_like, masks)
    return d_u, d_masks, d_W.astype(W.dtype), d_b.astype(b.dtype), d_h0[0]


_scan.defvjp(_forward, _backward)


def _before(hs: Float[Array, "T B E"], h0: Float[Array, "B E"]) -> Float[Array, "T B E"]:
    """Returns the state before each token; XLA would copy the operands of a concatenation."""
    later = jax.lax.pad(hs, jnp.zeros((), hs.dtype), [(1, -1, 0), (0, 0, 0), (0, 0, 0)])
    is_first = (jnp.arange(len(hs)) == 0)[:, None, None]
    return jnp.where(is_first, h0[None].astype(hs.dtype), later)


def _call_forward(rows, whole):
    """Returns the states [T, B, E] and the last one [1, B, E]."""
    u, masks, h0 = rows
    W, b = whole
    blocks = _Blocks(u, len(W))
    states, state, grid = blocks.tokens(len(W)), blocks.state, blocks.grid
    W, b = packed(W), b[None].astype(jnp.float32)
    call = kernel_call(
        forward_body,
        grid=grid,
        in_specs=[blocks.tokens(u.shape[2]), blocks.of(masks), _whole(W), _whole(b), state],
        out_specs=[states, state],
        out_shape=[blocks.tokens_shape(h0.shape[2]), blocks.state_shape],
        compiler_params=_parameters(W),
        name="gru_forward",
    )
    hs, h = call(blocks.padded(u), blocks.masks(masks), W, b, blocks.padded_state(h0))
    return blocks.cut(hs), h[:, : u.shape[1]]


def _call_backward(rows, whole):
    """Returns the gradients of u, of the last third of W h + b, and of h0 [1, B, E]."""
    u, s, before, d_hs, masks, d_last = rows
    (W,) = whole
    blocks = _Blocks(u, len(W), reverse=True)
    projections, states = blocks.tokens(u.shape[2]), blocks.tokens(len(W))
    shapes = [blocks.tokens_shape(size) for size in (u.shape[2], len(W))]
    W = packed(W.T)
    given = [projections, projections, states, states, blocks.of(masks), _whole(W), blocks.state]
    call = kernel_call(
        backward_body,
        grid=blocks.grid,
        in_specs=given,
        out_specs=[projections, states, blocks.state],
        out_shape=[*shapes, blocks.state_shape],
        compiler_params=_parameters(W),
        name="gru_backward",
    )
    tokens = map(blocks.padded, (u, s, before, d_hs))
    d_u, d_n, d_h0 = call(*tokens, blocks.masks(masks), W, blocks.padded_state(d_last))
    return blocks.cut(d_u), blocks.cut(d_n), d_h0[:, : u.shape[1]]


def _memory() -> int:
    """Returns the bytes of memory of a core of the device, which a mesh in force tells."""
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except ValueError:
        return MEMORY


def _parameters(W: Array) -> pltpu.CompilerParams:
    most = max(MEMORY, W.size * W.dtype.itemsize + MEMORY // 2)
    return pltpu.CompilerParams(("parallel", "arbitrary"), vmem_limit_bytes=most)


def _whole(x: Array) -> pl.BlockSpec:
    """Returns the block of an array that stays in the core's memory."""
    return pl.BlockSpec(x.shape, lambda i, t: (0,) * x.ndim, pipeline_mode=pl.Buffered(1))


class _Blocks:
    """What a turn of the grid reads and writes; turns are over rows and over chunks of tokens.

    Attributes:
      grid: number of turns over each.
      state: block of arrays [1, B, E].
      state_shape: theirs, with padding.
    """

    def __init__(self, u: Float[Array, "T B U"], units: int, *, reverse: bool = False):
        self._time, self._batch, _ = u.shape
        self._dtype = u.dtype
        most = max(TILE, BLOCK // (units * u.dtype.itemsize) // TILE * TILE)
        self._rows = min(-(-self._batch // TILE) * TILE, most, ROWS)
        self._chunk = min(TOKENS, max(1, most // self._rows), self._time)
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

    def tokens_shape(self, lanes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*self._padded, lanes), self._dtype)

    def padded(self, x: Float[Array, "T B L"]) -> Array:
        """Adds tokens and rows of zeros."""
        time, rows = self._rest
        return jnp.pad(x, [(0, time), (0, rows), (0, 0)]) if time or rows else x

    def padded_state(self, h: Float[Array, "1 B E"]) -> Array:
        return jnp.pad(h, [(0, 0), (0, self._rest[1]), (0, 0)])

    def cut(self, x: Array) -> Float[Array, "T B L"]:
        return x[: self._time, : self._batch]

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
