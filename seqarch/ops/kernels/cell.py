"""Recurrences of cells as kernels for a TPU: the weights stay in a core's memory over all tokens.

The forward pass keeps only the states. The backward pass has the projections W h of all of them by
one matrix product, and the gradient of the weights by another; between the two a kernel runs
through the tokens in reverse. Products are in the dtype of the weights and summed in float32.
Arrays of tokens are kept in bfloat16 where both u and W are, else in float32; states other than h
are always in float32.

Source: seqarch.ops.gru and its neighbours for the equations; Diamos et al. 2016, "Persistent RNNs:
stashing recurrent weights on-chip", section 3.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.call import kernel_call
from seqarch.ops.kernels.cell_blocks import CellBlocks, memory, whole
from seqarch.ops.kernels.cell_bodies import Masks, backward_body, forward_body, packed
from seqarch.ops.kernels.cells import CellKernel
from seqarch.ops.numerics import dot
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.types import Array, Bool, Float

State = tuple[Array, ...]


def why_not(u: Float[Array, "T B U"], W: Float[Array, "*H K F"]) -> str | None:
    """Returns why the kernels cannot compute arrays of these shapes, in words; None: they can."""
    batch, units, most = u.shape[1], math.prod(W.shape[:-1]), memory() // 2
    # Float32 is three parts in bfloat16.
    size = W.size * _heads_at_once(W) * (2 if W.dtype == jnp.bfloat16 else 6)
    if units % LANES:
        return f"{units} units are no multiple of {LANES}"
    if size > most:
        return f"{size / 2**20:.1f} MiB of weights are more than {most // 2**20}"
    if batch % row_devices():
        return f"{batch} rows do not divide over {row_devices()} devices"
    return None


def scan(
    cell: CellKernel,
    u: Float[Array, "T B U"],
    keep: Float[Array, "T B"] | None,
    valid: Bool[Array, "T B"] | None,
    W: Float[Array, "*H K F"],
    b: Float[Array, "U"] | None,
    state: State,
) -> tuple[Float[Array, "T B E"], State]:
    """Returns all outputs h and, in float32, the last state.

    Args:
      cell: the cell, with the gates of a head's units in F = G K columns.
      u: projections of the inputs, U = H F; `why_not` has nothing against them and W.
      keep: 0 where the state is forgotten before a token, else 1; None: all are 1.
      valid: whether a token exists; None: all do.
      W: recurrent weights, of several heads or of one.
      b: biases of W h; None: there are none.
      state: the arrays of the state before the first token [B, E], E = H K.
    """
    W = W if W.dtype == jnp.bfloat16 else W.astype(jnp.float32)
    u = u if u.dtype == W.dtype else u.astype(jnp.float32)
    keep, valid = (None if x is None else x.astype(jnp.float32) for x in (keep, valid))
    state = tuple(x.astype(jnp.float32) for x in state)
    u, W = _joined(cell, u, W)
    return _scan(cell, u, Masks(keep, valid), W, b, state)


def _heads_at_once(W: Float[Array, "*H K F"]) -> int:
    """Returns how many heads have a multiple of LANES units."""
    return LANES // math.gcd(W.shape[-2], LANES)


def _joined(cell: CellKernel, u: Array, W: Float[Array, "*H K F"]) -> tuple[Array, Array]:
    """Returns u and W of heads of LANES units or a multiple: several in one, of a diagonal W."""
    count = _heads_at_once(W)
    if count == 1:
        return u, W
    H, K, _ = W.shape
    u_gates = u.reshape(*u.shape[:2], H // count, count, cell.gates, K)
    W_gates = W.reshape(H // count, count, K, cell.gates, 1, K)
    W_gates = W_gates * jnp.eye(count, dtype=W.dtype)[None, :, None, None, :, None]
    return u_gates.swapaxes(3, 4).reshape(u.shape), W_gates.reshape(H // count, count * K, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(
    cell: CellKernel, u: Array, masks: Masks, W: Array, b: Array | None, state: State
) -> tuple[Array, State]:
    hs, _, last = _run(cell, False, u, masks, W, b, state)
    return hs, last


def _run(cell, is_kept, u, masks, W, b, state):
    """Returns all h, where `is_kept` the other states before each token, and the last state."""
    call = partial(_call_forward, cell, is_kept)
    rows = u, masks, tuple(x[None] for x in state)
    hs, before, last = by_rows(call, rows, (W, b), axis=1)
    return hs, before, tuple(x[0] for x in last)


def _forward(cell, u, masks, W, b, state):
    hs, before, last = _run(cell, True, u, masks, W, b, state)
    return (hs, last), (u, masks, W, b, state[0], hs, before)


def _backward(cell, saved, cotangents):
    u, masks, W, b, h0, hs, others = saved
    d_hs, d_last = cotangents
    h = _before(hs, h0)
    if masks.keep is not None:
        h = h * masks.keep[..., None].astype(hs.dtype)
    s = tuple(x.astype(u.dtype) for x in _projections(h.astype(W.dtype), W, b))
    rows = u, s, (h, *others), d_hs, masks, tuple(x[None] for x in d_last)
    d_u, d_apart, d_state = by_rows(partial(_call_backward, cell), rows, (W,), axis=1)
    d_W, d_b = _weight_gradients(cell, h, W, d_u, d_apart)
    d_masks = jax.tree.map(jnp.zeros_like, masks)
    d_b = None if b is None else d_b.astype(b.dtype)
    return d_u, d_masks, d_W.astype(W.dtype), d_b, tuple(x[0] for x in d_state)


_scan.defvjp(_forward, _backward)


def _projections(h: Array, W: Float[Array, "*H K F"], b: Array | None) -> list[Array]:
    """Returns W h of each head [T, B, F]; XLA would copy the product of all heads at once."""
    heads = W.reshape(-1, *W.shape[-2:])
    parts = jnp.split(h, len(heads), axis=2)
    found = [dot("tbe,ef->tbf", part, each) for part, each in zip(parts, heads, strict=True)]
    if b is None:
        return found
    biases = jnp.split(b.astype(jnp.float32), len(heads))
    return [x + each[None, None] for x, each in zip(found, biases, strict=True)]


def _weight_gradients(cell, h, W, d_u, d_apart) -> tuple[Float[Array, "*H K F"], Float[Array, "U"]]:
    """Returns the gradients of W and b, given those of u and of what gates take apart of W h."""
    d_s = [_by_heads(d_u, W)]
    if cell.apart:
        apart = _by_heads(d_apart, W)
        d_s = [d_s[0][..., : -apart.shape[-1]], apart]
    h, ones = _by_heads(h, W), jnp.ones(d_u.shape[:2], d_u.dtype)
    d_W = jnp.concatenate([dot("tb...e,tb...f->...ef", h, d) for d in d_s], -1)
    d_b = jnp.concatenate([dot("tb,tb...f->...f", ones, d) for d in d_s], -1)
    return d_W, d_b.reshape(-1)


def _by_heads(x: Float[Array, "T B L"], W: Float[Array, "*H K F"]) -> Array:
    return x.reshape(*x.shape[:2], *W.shape[:-2], -1)


def _before(hs: Float[Array, "T B E"], h0: Float[Array, "B E"]) -> Float[Array, "T B E"]:
    """Returns the state before each token; XLA would copy the operands of a concatenation."""
    later = jax.lax.pad(hs, jnp.zeros((), hs.dtype), [(1, -1, 0), (0, 0, 0), (0, 0, 0)])
    is_first = (jnp.arange(len(hs)) == 0)[:, None, None]
    return jnp.where(is_first, h0[None].astype(hs.dtype), later)


def _call_forward(cell, is_kept, rows, weights):
    """Returns the outputs [T, B, E], the other states before each token, and the last state."""
    u, masks, state = rows
    W, b = weights
    E, others = state[0].shape[2], cell.states - 1 if is_kept else 0
    W, b = packed(W), None if b is None else b[None].astype(jnp.float32)
    blocks = CellBlocks(cell, u, E, W)
    outputs, float32 = blocks.tokens(E), blocks.tokens_shape(E, jnp.float32)
    states, states_shape = (blocks.state,) * cell.states, (blocks.state_shape,) * cell.states
    of_b = None if b is None else whole(b)
    call = kernel_call(
        partial(forward_body, cell),
        grid=blocks.grid,
        in_specs=[blocks.tokens(u.shape[2]), blocks.of(masks), whole(W), of_b, states],
        out_specs=[outputs, (outputs,) * others, states],
        out_shape=[blocks.tokens_shape(E), (float32,) * others, states_shape],
        compiler_params=blocks.parameters,
        name=f"{cell.name}_forward",
    )
    state = jax.tree.map(blocks.padded_state, state)
    hs, before, last = call(blocks.padded(u), blocks.masks(masks), W, b, state)
    hs, before = jax.tree.map(blocks.cut, (hs, before))
    return hs, before, jax.tree.map(blocks.cut_state, last)


def _call_backward(cell, rows, weights):
    """Returns the gradients of u, of what gates take apart of W h, and of the first state."""
    u, s, before, d_hs, masks, d_last = rows
    (W,) = weights
    E, U = before[0].shape[2], u.shape[2]
    W = packed(W.swapaxes(-1, -2))
    blocks = CellBlocks(cell, u, E, W, reverse=True)
    gates, outputs = blocks.tokens(U), blocks.tokens(E)
    states, states_shape = (blocks.state,) * cell.states, (blocks.state_shape,) * cell.states
    of_apart, apart_shape = None, None
    if cell.apart:
        of_apart, apart_shape = (of(cell.apart * E) for of in (blocks.tokens, blocks.tokens_shape))
    of_s = (blocks.tokens(s[0].shape[2]),) * len(s)
    given = gates, of_s, (outputs,) * cell.states, outputs, blocks.of(masks), whole(W), states
    call = kernel_call(
        partial(backward_body, cell),
        grid=blocks.grid,
        in_specs=list(given),
        out_specs=[gates, of_apart, states],
        out_shape=[blocks.tokens_shape(U), apart_shape, states_shape],
        compiler_params=blocks.parameters,
        name=f"{cell.name}_backward",
    )
    tokens = jax.tree.map(blocks.padded, (u, s, before, d_hs))
    d_last = jax.tree.map(blocks.padded_state, d_last)
    d_u, d_apart, d_state = call(*tokens, blocks.masks(masks), W, d_last)
    d_u, d_apart = jax.tree.map(blocks.cut, (d_u, d_apart))
    return d_u, d_apart, jax.tree.map(blocks.cut_state, d_state)
