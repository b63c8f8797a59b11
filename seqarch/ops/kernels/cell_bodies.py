"""What the kernels of a cell compute in a chunk of C tokens of B rows, one token after the other.

All arrays [C, B, ...] are of tokens. E = H K units are those of H heads, which W does not mix.
Arrays of U lanes hold the gates of all units, head by head: U = H G K. The K units of a head are a
multiple of LANES, which are computed at once.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.cells import CellKernel
from seqarch.types import Array, Float

Ref = Any
Refs = tuple[Ref, ...]


class Masks(NamedTuple):
    """What tokens do to the state, each number repeated over the lanes; None: 1 everywhere.

    Attributes:
      keep: [C, B, LANES], 0 where the state is forgotten before a token, else 1.
      valid: [C, B, LANES], 0 where there is no token and the state stays as it is, else 1.
    """

    keep: Ref | None
    valid: Ref | None


def packed(W: Float[Array, "*H K F"]) -> Array:
    """Returns weights as kernels load them, pairs of rows of bfloat16 in 32 bits: [H, P, K / 2, F].

    Those in float32 are P = 3 such arrays, of which they are the sum. As bfloat16 comes, a push of
    weights to the matrix unit would take two loads and an `or`.
    """
    W = W.reshape(-1, *W.shape[-2:])
    parts = jnp.stack([W] if W.dtype == jnp.bfloat16 else _split(W), 1).astype(jnp.bfloat16)
    pairs = parts.reshape(*parts.shape[:2], W.shape[1] // 2, 2, -1).swapaxes(3, 4)
    return jax.lax.bitcast_convert_type(pairs, jnp.uint32)


def _split(x: Float[Array, "*X"]) -> list[Array]:
    """Returns three arrays that sum to x in float32, each of numbers that bfloat16 has."""
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
        parts.append(jax.lax.bitcast_convert_type(bits, jnp.float32))
        x = x - parts[-1]
    return parts


def _product(x: Float[Array, "B K"], W: Ref, head: int, lanes: slice) -> Float[Array, "B L"]:
    """Returns x times some columns of a head's packed weights, summed in float32.

    With weights in float32, the parts of x are rows of one product with each part of the weights,
    which are pushed once; what is below float32's precision is left out.
    """
    count, batch = W.shape[1], len(x)
    rows, total = _split(x) if count > 1 else [x], 0.0
    for i in reversed(range(count)):
        product = jnp.dot(
            jnp.concatenate(rows[: count - i]).astype(jnp.bfloat16),
            pltpu.bitcast(W[head, i, :, lanes], jnp.bfloat16),
            precision=jax.lax.Precision.DEFAULT,  # others, which may be in force, are refused
            preferred_element_type=jnp.float32,
        )
        for j in reversed(range(count - i)):
            total = total + product[j * batch : (j + 1) * batch]
    return total


def _over(mask: Ref, t: Array, L: int) -> Float[Array, "B L"]:
    return jnp.tile(mask[t], (1, L // LANES))


def _kept(masks: Masks, t: Array, x: Float[Array, "B L"]) -> Float[Array, "B L"]:
    return x if masks.keep is None else x * _over(masks.keep, t, x.shape[1])


def _chosen(masks: Masks, t: Array, then: Array, otherwise: Array | float) -> Float[Array, "B L"]:
    """Returns `then` in the rows that have the token, else `otherwise`."""
    if masks.valid is None:
        return then
    return jnp.where(_over(masks.valid, t, then.shape[1]) > 0, then, otherwise)


def _lanes(head: int, first: int, count: int, K: int) -> list[slice]:
    """Returns where `count` numbers of a head's units `first` and on are, in blocks of LANES."""
    starts = range(head * count * K + first, (head + 1) * count * K, K)
    return [slice(at, at + LANES) for at in starts]


def _load(x: Ref, t: Array, lanes: list[slice]) -> list[Float[Array, "B LANES"]]:
    return [x[t, :, each].astype(jnp.float32) for each in lanes]


def _store(x: Ref, t: Array, lanes: list[slice], numbers: Sequence[Array]) -> None:
    for each, number in zip(lanes, numbers, strict=True):
        x[t, :, each] = number.astype(x.dtype)


def _taken(cell: CellKernel, u: list[Array], s: list[Array]) -> tuple[list[Array], list[Array]]:
    """Returns what gates take, and W h of those that take it apart."""
    both = cell.gates - cell.apart
    return [x + y for x, y in zip(u[:both], s)] + u[both:], s[both:]


def _start(states: Refs, given: Refs) -> None:
    """Copies the given states before the first chunk."""

    @pl.when(pl.program_id(1) == 0)
    def _():
        for state, each in zip(states, given, strict=True):
            state[...] = each[...]


def forward_body(
    cell: CellKernel,
    u: Ref,
    masks: Masks,
    W: Ref,
    b: Ref | None,
    given: Refs,
    hs: Ref,
    before: Refs,
    state: Refs,
) -> None:
    """Computes the states of a chunk.

    The gates of a block are on the vector units while the next one is on the matrix units.

    Args:
      cell: what is computed.
      u: projections of the inputs [C, B, U].
      masks: of the tokens.
      W: packed weights [H, P, K / 2, G K].
      b: biases of W h [1, U].
      given: the state before the first chunk, S arrays [1, B, E].
      hs: the outputs h [C, B, E].
      before: the other states before each token [C, B, E]; (): they are not wanted.
      state: the state so far, S arrays [1, B, E].
    """
    H, K = len(W), W.shape[3] // cell.gates
    _start(state, given)

    def step(t: Array, h: Float[Array, "B E"]) -> Float[Array, "B E"]:
        kept, blocks = _kept(masks, t, h), []
        for head, first in itertools.product(range(H), range(0, K, LANES)):
            (units,), gates = (_lanes(head, first, count, K) for count in (1, cell.gates))
            x = kept[:, head * K : head * K + K]
            s = [_product(x, W, head, lanes) for lanes in _lanes(0, first, cell.gates, K)]
            if b is not None:
                s = [x + b[:, lanes] for x, lanes in zip(s, gates, strict=True)]
            old = [h[:, units], *(x[0, :, units] for x in state[1:])]
            entering = kept[:, units], *(_kept(masks, t, x) for x in old[1:])
            after = cell.update(*_taken(cell, _load(u, t, gates), s), entering)
            after = [_chosen(masks, t, *each) for each in zip(after, old, strict=True)]
            blocks.append(after[0])
            for ref, x in zip(state[1:], after[1:], strict=True):
                ref[0, :, units] = x
            for ref, x in zip(before, entering[1:]):
                ref[t, :, units] = x
        h = jnp.concatenate(blocks, 1)
        hs[t] = h.astype(hs.dtype)
        return h

    state[0][0] = jax.lax.fori_loop(0, len(hs), step, state[0][0])


def backward_body(
    cell: CellKernel,
    u: Ref,
    s: Refs,
    before: Refs,
    d_hs: Ref,
    masks: Masks,
    W: Ref,
    d_last: Refs,
    d_u: Ref,
    d_apart: Ref | None,
    d: Refs,
) -> None:
    """Computes the gradients of a chunk, last token first.

    Args:
      cell: whose they are.
      u: projections of the inputs [C, B, U].
      s: W h of each head with the bias [C, B, G K].
      before: the state before each token, S arrays [C, B, E].
      d_hs: the gradient of the outputs h [C, B, E].
      masks: of the tokens.
      W: the transposed weights, packed [H, P, G K / 2, K].
      d_last: the gradient of the last state, S arrays [1, B, E].
      d_u: that of u [C, B, U].
      d_apart: that of W h where a gate takes it apart; that of the others is `d_u`.
      d: that of the state so far, S arrays [1, B, E], in the end of the initial one.
    """
    H, K = len(W), W.shape[3]
    _start(d, d_last)

    def gradients(t: Array, head: int, first: int, d_h: Array) -> tuple[list[Array], Array]:
        """Computes those of a block, and returns those of W h and, but for W h, of h."""
        (units,), gates = (_lanes(head, first, count, K) for count in (1, cell.gates))
        projections = _load(s[head], t, _lanes(0, first, cell.gates, K))
        taken = _taken(cell, _load(u, t, gates), projections)
        old = [d_h[:, units], *(x[0, :, units] for x in d[1:])]
        own = tuple(_chosen(masks, t, x, 0.0) for x in old)
        entering = tuple(x[t, :, units].astype(jnp.float32) for x in before)
        d_a, d_s, d_before = cell.gradient(*taken, entering, own)
        _store(d_u, t, gates, d_a)
        if d_apart is not None:
            _store(d_apart, t, _lanes(head, first, cell.apart, K), d_s)
        for ref, x, otherwise in zip(d[1:], d_before[1:], old[1:], strict=True):
            ref[0, :, units] = _chosen(masks, t, _kept(masks, t, x), otherwise)
        return [*d_a[: cell.gates - cell.apart], *d_s], d_before[0]

    def step(i: Array, d_h: Float[Array, "B E"]) -> Float[Array, "B E"]:
        t, blocks = len(d_hs) - 1 - i, []
        d_h = d_h + d_hs[t].astype(jnp.float32)
        for head in range(H):
            found = [gradients(t, head, first, d_h) for first in range(0, K, LANES)]
            d_s = jnp.concatenate([x for gate in zip(*(x for x, _ in found)) for x in gate], 1)
            for block, (_, direct) in enumerate(found):
                (units,) = _lanes(head, block * LANES, 1, K)
                lanes = slice(block * LANES, (block + 1) * LANES)
                x = _kept(masks, t, _product(d_s, W, head, lanes) + direct)
                blocks.append(_chosen(masks, t, x, d_h[:, units]))
        return jnp.concatenate(blocks, 1)

    d[0][0] = jax.lax.fori_loop(0, len(d_hs), step, d[0][0])
