"""What the kernels of the GRU compute in a chunk of C tokens of B rows, one token after the other.

All arrays [C, B, ...] are of tokens. Those of U = 3 E lanes hold the gates r, z and n.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.types import Array, Float

LANES = 128  # numbers in a row of a register
Ref = Any


class Masks(NamedTuple):
    """What tokens do to the state, each number repeated over the lanes; None: 1 everywhere.

    Attributes:
      keep: [C, B, LANES], 0 where the state is forgotten before a token, else 1.
      valid: [C, B, LANES], 0 where there is no token and the state stays as it is, else 1.
    """

    keep: Ref | None
    valid: Ref | None


def packed(W: Float[Array, "E U"]) -> Array:
    """Returns weights as kernels load them, pairs of rows of bfloat16 in 32 bits: [P, E / 2, U].

    Those in float32 are P = 3 such arrays, of which they are the sum. As bfloat16 comes, a push of
    weights to the matrix unit would take two loads and an `or`.
    """
    parts = jnp.stack([W] if W.dtype == jnp.bfloat16 else _split(W)).astype(jnp.bfloat16)
    pairs = jnp.moveaxis(parts.reshape(len(parts), len(W) // 2, 2, -1), 2, 3)
    return jax.lax.bitcast_convert_type(pairs, jnp.uint32)


def _split(x: Float[Array, "*X"]) -> list[Array]:
    """Returns three arrays that sum to x in float32, each of numbers that bfloat16 has."""
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
        parts.append(jax.lax.bitcast_convert_type(bits, jnp.float32))
        x = x - parts[-1]
    return parts


def _product(x: Float[Array, "B E"], W: Ref, lanes: slice) -> Float[Array, "B L"]:
    """Returns x times some columns of packed weights, summed in float32.

    With weights in float32, the parts of x are rows of one product with each part of the weights,
    which are pushed once; what is below float32's precision is left out.
    """
    count, batch = len(W), len(x)
    rows, total = _split(x) if count > 1 else [x], 0.0
    for i in reversed(range(count)):
        product = jnp.dot(
            jnp.concatenate(rows[: count - i]).astype(jnp.bfloat16),
            pltpu.bitcast(W[i, :, lanes], jnp.bfloat16),
            precision=jax.lax.Precision.DEFAULT,  # others, which may be in force, are refused
            preferred_element_type=jnp.float32,
        )
        for j in reversed(range(count - i)):
            total = total + product[j * batch : (j + 1) * batch]
    return total


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _over(mask: Ref, t: Array, E: int) -> Float[Array, "B E"]:
    return jnp.tile(mask[t], (1, E // LANES))


def forward_body(u: Ref, masks: Masks, W: Ref, b: Ref, h0: Ref, hs: Ref, h: Ref) -> None:
    """Computes the states of a chunk, in blocks of LANES units.

    The gates of a block are on the vector units while the next one is on the matrix units.

    Args:
      u: projections of the inputs [C, B, U].
      masks: of the tokens.
      W: packed weights [P, E / 2, U].
      b: biases [1, U].
      h0: the state before the first chunk [1, B, E].
      hs: the states [C, B, E].
      h: the state so far [1, B, E].
    """
    count, _, E = hs.shape

    @pl.when(pl.program_id(1) == 0)
    def _():
        h[...] = h0[...]

    def step(t: Array, state: Float[Array, "B E"]) -> Float[Array, "B E"]:
        before = state if masks.keep is None else state * _over(masks.keep, t, E)
        blocks = []
        for first in range(0, E, LANES):
            units = slice(first, first + LANES)
            gates = [slice(g * E + first, g * E + first + LANES) for g in range(3)]
            s = [_product(before, W, lanes) + b[:, lanes] for lanes in gates]
            ur, uz, un = (u[t, :, lanes].astype(jnp.float32) for lanes in gates)
            r, z = _sigmoid(ur + s[0]), _sigmoid(uz + s[1])
            n = jnp.tanh(un + r * s[2])
            after = n + z * (before[:, units] - n)
            if masks.valid is not None:
                after = jnp.where(masks.valid[t] > 0, after, state[:, units])
            blocks.append(after)
        state = jnp.concatenate(blocks, 1)
        hs[t] = state.astype(hs.dtype)
        return state

    h[0] = jax.lax.fori_loop(0, count, step, h[0])


def backward_body(
    u: Ref,
    s: Ref,
    before: Ref,
    d_hs: Ref,
    masks: Masks,
    W: Ref,
    d_last: Ref,
    d_u: Ref,
    d_n: Ref,
    d_h: Ref,
) -> None:
    """Computes the gradients of a chunk, last token first.

    With d_t that of h_t, s_t = W h_{t-1} + b and p_t the state before a token that it keeps:

        dn_t = d_t (1 - z_t) (1 - n_t^2)        dz_t = d_t (p_t - n_t) z_t (1 - z_t)
        dr_t = dn_t s^n_t r_t (1 - r_t)         dp_t = (dr_t, dz_t, dn_t r_t) W^T + d_t z_t

    Args:
      u: projections of the inputs [C, B, U].
      s: those of the states, with the bias [C, B, U].
      before: the states p [C, B, E].
      d_hs: the gradient of the states as outputs [C, B, E].
      masks: of the tokens.
      W: the transposed weights, packed [P, U / 2, E].
      d_last: the gradient of the last state [1, B, E].
      d_u: that of u [C, B, U].
      d_n: that of the last third of s; the others are those of u [C, B, E].
      d_h: that of the state so far [1, B, E], in the end of the initial one.
    """
    count, _, E = before.shape

    @pl.when(pl.program_id(1) == 0)
    def _():
        d_h[...] = d_last[...]

    def step(i: Array, d: Float[Array, "B E"]) -> Float[Array, "B E"]:
        t = count - 1 - i
        d = d + d_hs[t].astype(jnp.float32)
        valid = None if masks.valid is None else _over(masks.valid, t, E) > 0
        own = d if valid is None else jnp.where(valid, d, 0.0)
        gates = [slice(g * E, g * E + E) for g in range(3)]
        ur, uz, un = (u[t, :, lanes].astype(jnp.float32) for lanes in gates)
        sr, sz, sn = (s[t, :, lanes].astype(jnp.float32) for lanes in gates)
        r, z = _sigmoid(ur + sr), _sigmoid(uz + sz)
        n = jnp.tanh(un + r * sn)
        dn = own * (1 - z) * (1 - n * n)
        dz = own * (before[t].astype(jnp.float32) - n) * z * (1 - z)
        dr = dn * sn * r * (1 - r)
        for lanes, gradient in zip(gates, (dr, dz, dn), strict=True):
            d_u[t, :, lanes] = gradient.astype(d_u.dtype)
        d_n[t] = (dn * r).astype(d_n.dtype)
        ds = jnp.concatenate([dr, dz, dn * r], 1)
        columns = (slice(first, first + LANES) for first in range(0, E, LANES))
        d_before = jnp.concatenate([_product(ds, W, lanes) for lanes in columns], 1) + own * z
        if masks.keep is not None:
            d_before = d_before * _over(masks.keep, t, E)
        return d_before if valid is None else jnp.where(valid, d_before, d)

    d_h[0] = jax.lax.fori_loop(0, count, step, d_h[0])
