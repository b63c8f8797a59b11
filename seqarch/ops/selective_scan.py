"""The selective scan of Mamba (Gu and Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces",
section 3.2, algorithm 2), with the simplified discretisation of B used by its authors' code:

    h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,    y_t = C_t . h_t + D x_t

The state is [B, N, E]: the many inner channels are minor, so that the few state channels vectorise.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import dot, rows
from seqarch.types import Array, Bool, Float


class Chunk(NamedTuple):
    """`keep` is 0 where the state is forgotten before the token, else 1."""

    x: Float[Array, "B C E"]
    delta: Float[Array, "B C E"]
    B: Float[Array, "B C N"]
    C: Float[Array, "B C N"]
    keep: Float[Array, "B C"]


_IDENTITY = Chunk(0.0, 0.0, 0.0, 0.0, 1.0)  # a token that leaves the state alone


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
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "B T E"], Float[Array, "B N E"]]:
    """Outputs in x's dtype and the final state; all inside is float32.

    starts: tokens before which the state is forgotten
    """
    h0 = jnp.zeros((x.shape[0], *A.T.shape), jnp.float32) if h0 is None else h0
    keep = jnp.ones(x.shape[:2]) if starts is None else 1.0 - starts
    tokens = Chunk(*(t.astype(jnp.float32) for t in (x, delta, B, C, keep)))
    y, h = FORMS.pick(method)(tokens, A, h0, chunk=chunk)
    return (y + rows(D, y) * tokens.x).astype(x.dtype), h


def _maps(c: Chunk, A: Float[Array, "E N"]) -> affine.Affine:
    """Every token's affine map: decay and value [B, C, N, E]."""
    decay = jnp.exp(c.delta[:, :, None, :] * A.T[None, None]) * c.keep[:, :, None, None]
    return affine.Affine(decay, (c.delta * c.x)[:, :, None, :] * c.B[..., None])


def _arranged(form: str, c: Chunk, A: Array, h: Array, *, chunk: int) -> tuple[Array, Array]:
    """The forms that affine.py gives; within a chunk, an associative scan over tokens."""

    def prefixes(c: Chunk) -> affine.Affine:
        return jax.lax.associative_scan(affine.compose, _maps(c, A), axis=1)

    recurrence = affine.Recurrence(
        summarise=lambda c: jax.tree.map(lambda m: m[:, -1], prefixes(c)),
        read=lambda c, h: dot("btne,btn->bte", prefixes(c)(h[:, None]), c.C),
        identity=_IDENTITY,
    )
    return affine.FORMS[form](recurrence, c, h, chunk=chunk)


def _step(At: Float[Array, "N E"], h: Array, token: Chunk) -> Array:
    decay = jnp.exp(token.delta[:, None, :] * At[None])
    return decay * (h * token.keep[:, None, None]) + (token.delta * token.x)[:, None, :] * token.B[..., None]


def _recompute(c: Chunk, A: Array, h: Array, *, chunk: int) -> tuple[Array, Array]:
    """Token by token, keeping for the backward pass only the state that enters each chunk."""
    time_major = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 2), affine.split(_IDENTITY, c, chunk))
    y, h = _token_scan(time_major, A.T, h)
    return affine.join(jnp.moveaxis(y, 2, 1), c.x.shape[1]), h


@jax.custom_vjp
def _token_scan(c: Chunk, At: Array, h: Array) -> tuple[Array, Array]:
    """`c` is time-major [M, C, B, ...]; returns y [M, C, B, E] and the final state."""
    return _token_scan_forward(c, At, h)[0]


def _token_scan_forward(c: Chunk, At: Array, h: Array):
    def step(h, token):
        h = _step(At, h, token)
        return h, dot("bne,bn->be", h, token.C)

    def chunk_body(h, tokens):
        after, y = jax.lax.scan(step, h, tokens)
        return after, (y, h)

    h, (y, entering) = jax.lax.scan(chunk_body, h, c)
    return (y, h), (c, At, entering)


def _token_scan_backward(saved, cotangents):
    c, At, entering = saved
    dy, dh = cotangents
    ones = jnp.ones(At.shape[0], At.dtype)

    def step(carry, inputs):
        dh, dAt = carry
        token, dy, h = inputs  # h is h_{t-1}, already forgotten where the token says so
        dh = dh + token.C[..., None] * dy[:, None, :]
        through = dh * jnp.exp(token.delta[:, None, :] * At[None])
        exponent = through * h  # the gradient of delta_t A
        by_B = dot("bne,bn->be", dh, token.B)
        d_delta = dot("bne,n->be", exponent * At[None], ones) + by_B * token.x
        d_B = dot("bne,be->bn", dh, token.delta * token.x)
        dAt = dAt + dot("bne->ne", exponent * token.delta[:, None, :])
        return (through * token.keep[:, None, None], dAt), (by_B * token.delta, d_delta, d_B)

    def chunk_body(carry, inputs):
        tokens, dy, h0 = inputs
        _, after = jax.lax.scan(lambda h, token: (_step(At, h, token),) * 2, h0, tokens)
        before = jnp.concatenate([h0[None], after[:-1]]) * tokens.keep[..., None, None]
        carry, (dx, d_delta, d_B) = jax.lax.scan(step, carry, (tokens, dy, before), reverse=True)
        d_C = dot("tbne,tbe->tbn", after, dy)
        return carry, Chunk(dx, d_delta, d_B, d_C, jnp.zeros_like(tokens.keep))

    (dh, dAt), dc = jax.lax.scan(chunk_body, (dh, jnp.zeros_like(At)), (c, dy, entering), reverse=True)
    return dc, dAt, dh


_token_scan.defvjp(_token_scan_forward, _token_scan_backward)

FORMS = Forms(
    {**{form: partial(_arranged, form) for form in affine.FORMS}, "recompute": _recompute},
    cpu="recompute",
    accelerator="chunked",
)
