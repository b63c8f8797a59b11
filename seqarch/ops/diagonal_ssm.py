"""The diagonal state space of S4D: each channel has complex states of its own, which do not select.

    h_t = a h_{t-1} + b u_t,    y_t = Re(c . h_t)

a, b and c are the same for all tokens, so the outputs of a chunk are a convolution of its inputs
with the kernel K_j = Re(c . a^j b), and what is left of the state that enters it. The states inside
a chunk are not computed.

Source: Gu et al. 2022, "On the parameterization and initialization of diagonal state space models",
section 3.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import dot, segments
from seqarch.types import Array, Bool, Complex, Float


class SSMChunk(NamedTuple):
    """The arguments of `diagonal_ssm` for some tokens."""

    u: Float[Array, "B C E"]
    starts: Bool[Array, "B C"] | None
    valid: Bool[Array, "B C"]


def diagonal_ssm(
    u: Float[Array, "B T E"],
    log_a: Complex[Array, "N E"],
    b: Complex[Array, "N E"],
    c: Complex[Array, "N E"],
    h0: Float[Array, "B 2 N E"] | None = None,
    *,
    starts: Bool[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    method: str = "auto",
    chunk: int = 16,
) -> tuple[Float[Array, "B T E"], Float[Array, "B 2 N E"]]:
    """Returns the outputs and the final state, in float32.

    Args:
      u: inputs.
      log_a: logarithm of a.
      b: input weights.
      c: output weights.
      h0: real and imaginary parts of the state before the first token; None: zeros.
      starts: whether the state is forgotten before a token, which exists.
      valid: whether a token exists; those that do not come last. None: all exist.
      method: a name in FORMS, or "auto".
      chunk: tokens of a chunk.
    """
    h0 = jnp.zeros((u.shape[0], 2, *log_a.shape)) if h0 is None else h0
    valid = jnp.ones(u.shape[:2], bool) if valid is None else valid
    tokens = SSMChunk(jnp.where(valid[..., None], u.astype(jnp.float32), 0.0), starts, valid)
    y, h = FORMS.pick(method)(tokens, log_a, b, c, from_parts(h0, 1), chunk=chunk)
    return y, parts(h, 1)


def zero_order_hold(
    Lambda: Complex[Array, "*X"], log_delta: Float[Array, "*X"]
) -> tuple[Complex[Array, "*X"], Complex[Array, "*X"]]:
    """Returns log a and b of the recurrence for steps of exp(log_delta) of h' = Lambda h + u.

    a = exp(delta Lambda) and b = (a - 1) / Lambda.
    """
    log_a = jnp.exp(log_delta) * Lambda
    return log_a, jnp.expm1(log_a) / Lambda


def parts(x: Complex[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Returns the real and the imaginary parts of `x`, on a new axis."""
    return jnp.stack([x.real, x.imag], axis)


def from_parts(x: Float[Array, "..."], axis: int) -> Complex[Array, "..."]:
    """Returns the inverse of `parts`."""
    return jax.lax.complex(*jnp.unstack(x, axis=axis))


def _arranged(form, tokens, log_a, b, c, h, *, chunk):
    """Computes a form of affine.py; within a chunk, of at most `chunk` tokens, by a convolution."""
    size = max(1, min(chunk, tokens.u.shape[1]))
    powers = jnp.exp(jnp.arange(size + 1.0)[:, None, None] * log_a[None])  # a^0, ..., a^size
    write, read = powers[:size] * b[None], powers[1:] * c[None]
    kernel = dot("jne,n->je", (write * c[None]).real, jnp.ones(len(b)))
    lags = jnp.arange(size)[:, None] - jnp.arange(size)[None]
    kernel = jnp.where((lags >= 0)[..., None], kernel[jnp.abs(lags)], 0.0)
    recurrence = affine.Recurrence(
        summarise=partial(_summarise, log_a, parts(write[::-1], 1)),
        read=partial(_read, kernel, parts(read.conj(), 1)),
        identity=SSMChunk(0.0, None if tokens.starts is None else False, False),
    )
    return affine.FORMS[form](recurrence, tokens, h, chunk=chunk)


def _summarise(
    log_a: Complex[Array, "N E"], write: Float[Array, "_ 2 N E"], chunk: SSMChunk
) -> affine.Affine:
    """Returns the map from the state before a chunk to that after its last valid token."""
    count, u = chunk.valid.sum(1), chunk.u
    decay = jnp.exp(count[:, None, None] * log_a[None])
    if chunk.starts is not None:
        segment = segments(chunk.starts)
        decay = jnp.where((segment[:, -1] == 0)[:, None, None], decay, 0.0)
        u = jnp.where((segment == segment[:, -1:])[..., None], u, 0.0)
    # The last valid token becomes the last one; what it moves to the front is zero.
    u = jax.vmap(partial(jnp.roll, axis=0))(u, u.shape[1] - count)
    value = dot("bse,spne->bpne", u, write[-u.shape[1] :])
    return affine.Affine(decay, from_parts(value, 1))


def _read(
    kernel: Float[Array, "_ _ E"],
    read: Float[Array, "_ 2 N E"],
    chunk: SSMChunk,
    h: Complex[Array, "B N E"],
) -> Float[Array, "B C E"]:
    size = chunk.u.shape[1]
    kernel, old = kernel[:size, :size], dot("bpne,tpne->bte", parts(h, 1), read[:size])
    if chunk.starts is None:
        return dot("bse,tse->bte", chunk.u, kernel) + old
    segment = segments(chunk.starts)
    same = (segment[:, :, None] == segment[:, None]).astype(jnp.float32)
    new = dot("bse,tse,bts->bte", chunk.u, kernel, same)
    return new + jnp.where((segment == 0)[..., None], old, 0.0)


FORMS = Forms(
    {form: partial(_arranged, form) for form in affine.FORMS}, cpu="chunked", accelerator="chunked"
)
