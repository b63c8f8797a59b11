"""The gated recurrent unit, in the reset-after variant of cuDNN and PyTorch:

    r_t = sigmoid(u^r_t + W_r h_{t-1} + b_r)        z_t = sigmoid(u^z_t + W_z h_{t-1} + b_z)
    n_t = tanh(u^n_t + r_t * (W_n h_{t-1} + b_n))   h_t = (1 - z_t) n_t + z_t h_{t-1}

u is the projection of the input, computed outside the loop. With the reset after the matrix
product, r * (W h), all three products are one.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", equations 5-8,
where the reset comes before the product, W (r * h).
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.ops import cell
from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.kernels.cells import GRU
from seqarch.ops.numerics import dot, multiply_rows
from seqarch.types import Array, Bool, Float

ROWS = 64  # from which on the form "stepwise" recomputes the gates of a token by themselves


def gru(
    u: Float[Array, "B T U"],
    W: Float[Array, "E U"],
    b: Float[Array, "U"],
    h0: Float[Array, "B E"],
    *,
    starts: Bool[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    method: str = "auto",
) -> tuple[Float[Array, "B T E"], Float[Array, "B E"]]:
    """Returns all states h in u's dtype, and the last one in float32.

    Args:
      u: projections of the inputs; the thirds of U are the gates r, z and n.
      W: recurrent weights.
      b: biases.
      h0: the state before the first token.
      starts: whether the state is forgotten before a token.
      valid: whether a token exists; where it does not, the state stays as it is.
      method: a name in FORMS, or "auto".
    """
    keep = None if starts is None else 1.0 - starts
    u_t, keep, valid = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (u, keep, valid))
    hs, h = FORMS.pick(method)(u_t, keep, valid, W, b, h0)
    return jnp.moveaxis(hs, 0, 1).astype(u.dtype), h


def _gates(u: Array, s: Array) -> tuple[Array, Array, Array]:
    """Returns r, z and n for the projections of the input and of the state."""
    ur, uz, un = jnp.split(u.astype(jnp.float32), 3, axis=-1)
    sr, sz, sn = jnp.split(s, 3, axis=-1)
    r = jax.nn.sigmoid(ur + sr)
    return r, jax.nn.sigmoid(uz + sz), jnp.tanh(un + r * sn)


def _project(h: Array, W: Array, b: Array) -> Array:
    s = multiply_rows(lambda h: dot("...e,ef->...f", h, W), h.astype(W.dtype))
    return s + b[None].astype(jnp.float32)


class GRUCell:
    """The GRU as a cell whose weights are (W, b)."""

    def update(self, u: Array, s: Array, state: tuple[Array]) -> tuple[Array]:
        _, z, n = _gates(u, s)
        return (n + z * (state[0] - n),)

    def product(self, h: Array, weights: tuple[Array, Array]) -> Array:
        W, b = weights
        return _project(h, W, b.reshape((1,) * (h.ndim - 2) + b.shape))

    def within(self, weights: tuple[Array, Array]) -> Array:
        W = weights[0]
        return jnp.einsum("ege->ge", W.reshape(len(W), 3, -1)).reshape(-1)


CELL = GRUCell()


def _of_cells(
    form: str, u: Array, keep: Array | None, valid: Array | None, W: Array, b: Array, h: Array
) -> tuple[Array, Array]:
    """Computes a form that all cells have."""
    hs, (h,) = cell.FORMS[form](CELL, u, keep, valid, (W, b), (h,))
    return hs, h


_sequential = partial(_of_cells, "sequential")


@jax.custom_vjp
def _recompute(
    u: Array, keep: Array | None, valid: Array | None, W: Array, b: Array, h: Array
) -> tuple[Array, Array]:
    """Does what `_sequential` does, and keeps only the states for the backward pass.

    The backward pass recomputes all gates by one matrix product over time.
    """
    return _sequential(u, keep, valid, W, b, h)


def _forward(u, keep, valid, W, b, h0):
    hs, h = _sequential(u, keep, valid, W, b, h0)
    return (hs, h), (u, keep, valid, W, b, h0, hs)


def _backward(saved, cotangents):
    u, keep, valid, W, b, h0, hs = saved
    d_hs, d_h = cotangents
    before = jnp.concatenate([h0[None], hs[:-1]])
    if keep is not None:
        before = before * keep[..., None]
    s = _project(before, W, b[None])
    r, z, n = _gates(u, s)
    # The derivatives of h_t with respect to the arguments of n, z and r.
    to_n, to_z, through = (1 - z) * (1 - n * n), (before - n) * z * (1 - z), z
    if valid is not None:
        to_n, to_z = (jnp.where(valid[..., None], x, 0.0) for x in (to_n, to_z))
    to_r = to_n * jnp.split(s, 3, axis=-1)[2] * r * (1 - r)

    def step(d_h, inputs):
        d_out, to_s, keep, through = inputs
        d_h = d_h + d_out
        d_s = jnp.tile(d_h, (1, 3)) * to_s
        d_before = dot("bf,ef->be", d_s.astype(W.dtype), W)
        d_before = d_before if keep is None else d_before * keep[:, None]
        return d_before + d_h * through, d_h

    to_s = jnp.concatenate([to_r, to_z, to_n * r], axis=-1)
    if keep is not None:
        through = through * keep[..., None]
    if valid is not None:
        through = jnp.where(valid[..., None], through, 1.0)
    d_h0, d_h = jax.lax.scan(step, d_h, (d_hs, to_s, keep, through), reverse=True)
    d_s = jnp.tile(d_h, (1, 1, 3)) * to_s
    d_u = jnp.concatenate([d_h * to_r, d_h * to_z, d_h * to_n], axis=-1)
    return _cotangents(d_u.astype(u.dtype), d_s, before, keep, W, b, d_h0)


def _cotangents(
    d_u: Array, d_s: Array, before: Array, keep: Array | None, W: Array, b: Array, d_h0: Array
) -> tuple[Array | None, ...]:
    """Returns the cotangents of all arguments, from those of u and of W h + b."""
    d_W = dot("tbe,tbf->ef", before, d_s).astype(W.dtype)
    d_b = dot("tb,tbf->f", jnp.ones(d_s.shape[:2]), d_s).astype(b.dtype)
    d_keep = None if keep is None else jnp.zeros_like(keep)
    return d_u, d_keep, None, d_W, d_b, d_h0


_recompute.defvjp(_forward, _backward)


@jax.custom_vjp
def _stepwise(
    u: Array, keep: Array | None, valid: Array | None, W: Array, b: Array, h: Array
) -> tuple[Array, Array]:
    """Does what `_recompute` does; with ROWS or more it recomputes each token's gates by itself.

    They then stay in a CPU's cache. With fewer rows, products over all tokens are faster.
    """
    return _sequential(u, keep, valid, W, b, h)


def _backward_stepwise(saved, cotangents):
    u, keep, valid, W, b, h0, hs = saved
    d_hs, d_h = cotangents
    if len(h0) < ROWS:
        return _backward(saved, cotangents)

    def step(d_h, inputs):
        d_out, u, h, keep, valid = inputs
        d_h = d_h + d_out
        before = h if keep is None else h * keep[:, None]
        s = _project(before, W, b)
        r, z, n = _gates(u, s)
        d_after = d_h if valid is None else jnp.where(valid[:, None], d_h, 0.0)
        d_n, d_z = d_after * (1 - z) * (1 - n * n), d_after * (before - n) * z * (1 - z)
        d_r = d_n * jnp.split(s, 3, axis=-1)[2] * r * (1 - r)
        d_u = jnp.concatenate([d_r, d_z, d_n], axis=-1).astype(u.dtype)
        d_s = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        d_before = dot("bf,ef->be", d_s.astype(W.dtype), W) + d_after * z
        if keep is not None:
            d_before = d_before * keep[:, None]
        if valid is not None:
            d_before = jnp.where(valid[:, None], d_before, d_h)
        return d_before, (d_u, d_s)

    previous = jnp.concatenate([h0[None], hs[:-1]])
    d_h0, (d_u, d_s) = jax.lax.scan(step, d_h, (d_hs, u, previous, keep, valid), reverse=True)
    before = previous if keep is None else previous * keep[..., None]
    return _cotangents(d_u, d_s, before, keep, W, b, d_h0)


_stepwise.defvjp(_forward, _backward_stepwise)


def _pallas(
    u: Array, keep: Array | None, valid: Array | None, W: Array, b: Array, h: Array
) -> tuple[Array, Array]:
    """Computes the kernels for a TPU, or `_recompute` where those cannot, said once."""
    found = cell.in_kernels(GRU, u, keep, valid, W, b, (h,))
    if found is None:
        return _recompute(u, keep, valid, W, b, h)
    return found[0], found[1][0]


FORMS = Forms(
    {
        "sequential": _sequential,
        "recompute": _recompute,
        "stepwise": _stepwise,
        "newton": partial(_of_cells, "newton"),
    },
    cpu="stepwise",
    accelerator="recompute",
    tpu="pallas",
    kernels={"pallas": Kernel("tpu", _pallas)},
)
