"""The selective scan of Mamba, with the simplified discretisation of B in its authors' code:

    h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,    y_t = C_t . h_t + D x_t

With negative eigenvalues, 2 exp(delta_t A) - 1 stands in place of exp(delta_t A), so that a token
can also turn the sign of the state, as counting modulo 2 needs.

The state is [B, N, E]: the many inner channels are the last axis, over which loops vectorise.

Source: Gu and Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", section
3.2, algorithm 2; Grazzi et al. 2025, "Unlocking state-tracking in linear RNNs through negative
eigenvalues".
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.chunks import join, split
from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.numerics import dot, rows
from seqarch.types import Array, Bool, Float


class ScanChunk(NamedTuple):
    """The arguments of `selective_scan` for some tokens.

    keep: 0 where the state is forgotten before the token, else 1; None: 1 everywhere
    """

    x: Float[Array, "B C E"]
    delta: Float[Array, "B C E"]
    B: Float[Array, "B C N"]
    C: Float[Array, "B C N"]
    keep: Float[Array, "B C"] | None


_IDENTITY = ScanChunk(0.0, 0.0, 0.0, 0.0, 1.0)  # a token that leaves the state alone


def selective_scan(
    x: Float[Array, "B T E"],
    delta: Float[Array, "B T E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B T N"],
    C: Float[Array, "B T N"],
    D: Float[Array, "E"],
    h0: Float[Array, "B N E"] | None = None,
    *,
    starts: Bool[Array, "B T"] | None = None,
    negative_eigenvalues: bool = False,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "B T E"], Float[Array, "B N E"]]:
    """Returns the outputs in x's dtype and the final state; the computation is in float32.

    Args:
      x: inputs.
      delta: step sizes.
      A: state matrix, diagonal in N.
      B: input projections.
      C: output projections.
      D: weights of the skip connection.
      h0: the state before the first token; None: zeros.
      starts: whether the state is forgotten before a token.
      negative_eigenvalues: whether decays are in (-1, 1) in place of (0, 1).
      method: a name in FORMS, or "auto".
      chunk: tokens of a chunk; "pallas" and "triton" have their own.
    """
    h0 = jnp.zeros((x.shape[0], *A.T.shape), jnp.float32) if h0 is None else h0
    keep = None if starts is None else 1.0 - starts
    form = FORMS.pick(method)
    tokens = ScanChunk(x, delta, B, C, keep)
    y, h = form(tokens, A, D, h0, negative_eigenvalues, chunk=chunk)
    return y.astype(x.dtype), h


def decays(
    delta: Float[Array, "*BT E"], At: Float[Array, "N E"], negative_eigenvalues: bool
) -> Float[Array, "*BT N E"]:
    """Returns the factor by which each token decays a state that it does not forget.

    It takes A transposed, because XLA would read A.T with a stride inside a loop.
    """
    a = jnp.exp(delta[..., None, :] * At[(None,) * (delta.ndim - 1)])
    return 2 * a - 1 if negative_eigenvalues else a


def _decay(c: ScanChunk, At: Float[Array, "N E"], negative: bool) -> Float[Array, "*BC N E"]:
    """Returns the factor by which each token decays the state, 0 where it is forgotten."""
    return decays(c.delta, At, negative) * c.keep[..., None, None]


def _value(c: ScanChunk) -> Float[Array, "*BC N E"]:
    """Returns what each token adds to the state."""
    return (c.delta * c.x)[..., None, :] * c.B[..., None]


def _in_float32(
    form: Callable, tokens: ScanChunk, A: Array, D: Array, h: Array, negative: bool, *, chunk: int
) -> tuple[Array, Array]:
    """Computes a form of the recurrence in float32, and the skip connection."""
    keep = jnp.ones(tokens.x.shape[:2]) if tokens.keep is None else tokens.keep
    tokens = ScanChunk(*(array.astype(jnp.float32) for array in tokens._replace(keep=keep)))
    y, h = form(tokens, A, h, negative, chunk=chunk)
    return y + rows(D, y) * tokens.x, h


def _kernels(
    method: str, tokens: ScanChunk, A: Array, D: Array, h: Array, negative: bool, *, chunk: int
) -> tuple[Array, Array]:
    """Computes the kernels of a form, or chunks where those cannot, said once."""
    from seqarch.ops.kernels import selective_scan as on_tpu
    from seqarch.ops.kernels import selective_scan_gpu as on_gpu
    from seqarch.ops.kernels.call import say_once

    kernels = {"pallas": on_tpu, "triton": on_gpu}[method]
    if reason := kernels.why_not(tokens.x, A):
        say_once(f"selective_scan: method=chunked in place of {method}, as {reason}")
        return FORMS["chunked"](tokens, A, D, h, negative, chunk=chunk)
    x, delta, B, C, keep = tokens
    return on_tpu.selective_scan(kernels, x, delta, A, B, C, D, h, keep, negative)


def _arranged(
    form: str, c: ScanChunk, A: Array, h: Array, negative: bool, *, chunk: int
) -> tuple[Array, Array]:
    """Computes a form of affine.py; within a chunk, by an associative scan over tokens."""

    def prefixes(c: ScanChunk) -> affine.Affine:
        maps = affine.Affine(_decay(c, A.T, negative), _value(c))
        return jax.lax.associative_scan(affine.compose, maps, axis=1)

    recurrence = affine.Recurrence(
        summarise=lambda c: jax.tree.map(lambda m: m[:, -1], prefixes(c)),
        read=lambda c, h: dot("btne,btn->bte", prefixes(c)(h[:, None]), c.C),
        identity=_IDENTITY,
    )
    return affine.FORMS[form](recurrence, c, h, chunk=chunk)


def _recompute(
    c: ScanChunk, A: Array, h: Array, negative: bool, *, chunk: int
) -> tuple[Array, Array]:
    """Computes token by token, keeping only the state that enters each chunk for the backward pass.

    Rows are computed one after the other, so that the data of a token stay in a core's cache:
    training takes twice as long with all 8 rows of a batch at once. Where devices share the batch,
    rows are computed at once, as that loop would gather the batch.
    """
    chunks = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), split(_IDENTITY, c, chunk))

    def row(inputs):
        return _row(negative, *inputs, A.T)

    one_by_one = jax.sharding.get_abstract_mesh().size <= 1
    y, h = jax.lax.map(row, (chunks, h)) if one_by_one else jax.vmap(row)((chunks, h))
    return join(jnp.moveaxis(y, 1, 0), c.x.shape[1]), h


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row(
    negative: bool, c: ScanChunk, h: Float[Array, "N E"], At: Float[Array, "N E"]
) -> tuple[Float[Array, "M C E"], Float[Array, "N E"]]:
    """Scans one sequence of chunks [M, C, ...].

    The decays of a chunk are computed at once, in an array that is large enough for several cores.
    """
    return _row_forward(negative, c, h, At)[0]


def _row_forward(negative, c, h, At):
    def step(h, token):
        decay, c = token
        h = decay * h + _value(c)
        return h, dot("ne,n->e", h, c.C)

    def chunk_body(h, c):
        after, y = jax.lax.scan(step, h, (_decay(c, At, negative), c))
        return after, (y, h)

    h, (y, entering) = jax.lax.scan(chunk_body, h, c)
    return (y, h), (c, At, entering)


def _row_backward(negative, saved, cotangents):
    c, At, entering = saved
    dy, dh = cotangents
    ones = jnp.ones(len(At))

    def again(h, inputs):
        (decay, c), dy = inputs
        after = decay * h + _value(c)
        return after, (h, dot("ne,e->n", after, dy))

    def step(carry, inputs):
        dh, dAt = carry
        (decay, c), dy, h = inputs  # h is h_{t-1}
        dh = dh + c.C[:, None] * dy[None]
        # 2 exp(x) - 1 has the slope 2 exp(x), one more than its value.
        slope = decay + c.keep if negative else decay
        exponent = dh * slope * h  # the gradient of delta_t A
        by_B = dot("ne,n->e", dh, c.B)
        d_delta = dot("ne,n->e", exponent * At, ones) + by_B * c.x
        d_B = dot("ne,e->n", dh, c.delta * c.x)
        return (dh * decay, dAt + exponent * c.delta[None]), (by_B * c.delta, d_delta, d_B)

    def chunk_body(carry, inputs):
        c, dy, h = inputs
        tokens = _decay(c, At, negative), c
        _, (before, d_C) = jax.lax.scan(again, h, (tokens, dy))
        carry, (dx, d_delta, d_B) = jax.lax.scan(step, carry, (tokens, dy, before), reverse=True)
        return carry, ScanChunk(dx, d_delta, d_B, d_C, jnp.zeros_like(c.keep))

    zero = jnp.zeros_like(At)
    (dh, dAt), dc = jax.lax.scan(chunk_body, (dh, zero), (c, dy, entering), reverse=True)
    return dc, dh, dAt


_row.defvjp(_row_forward, _row_backward)

_PLAIN = {**{form: partial(_arranged, form) for form in affine.FORMS}, "recompute": _recompute}
FORMS = Forms(
    {name: partial(_in_float32, form) for name, form in _PLAIN.items()},
    cpu="recompute",
    accelerator="chunked",
    tpu="pallas",
    kernels={
        "triton": Kernel("gpu", partial(_kernels, "triton")),
        "pallas": Kernel("tpu", partial(_kernels, "pallas")),
    },
)
