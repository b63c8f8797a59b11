"""Ops with a goal: how long they may take on one TPU v5e, as its compiler estimates it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqarch import ops
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.forms import Forms
from seqarch.ops.gru import FORMS as GRU
from seqarch.ops.linear_attention import FORMS as LINEAR_ATTENTION
from seqarch.ops.lstm import FORMS as LSTM
from seqarch.ops.numerics import dot
from seqarch.ops.selective_scan import FORMS as SELECTIVE_SCAN
from seqarch.ops.slstm import FORMS as SLSTM


class Goal(NamedTuple):
    """An op with a goal for one TPU v5e at 8 rows of 2,048 tokens in bfloat16.

    Attributes:
      forms: those of the op.
      call: takes a form and the arguments.
      args: their shapes.
      forward: seconds of the forward pass, at most.
      train: seconds of the forward and the backward pass, at most.
    """

    forms: Forms
    call: Callable
    args: tuple[jax.ShapeDtypeStruct, ...]
    forward: float
    train: float


def _array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


B, T = 8, 2048
_single = functools.partial(_array, dtype=jnp.float32)
_starts = _array(B, T, dtype=jnp.bool)


def _selective_scan(form: str, x, delta, A, B, C, D, h0, starts):
    return ops.selective_scan(x, delta, A, B, C, D, h0, starts=starts, method=form)


def _heads(*arrays: jax.Array, heads: int) -> Iterator[jax.Array]:
    """Yields arrays [B, T, H K], as projections leave them, with an axis of heads."""
    for array in arrays:
        yield array.reshape(*array.shape[:2], heads, -1)


def _channels(x: jax.Array, of: jax.Array) -> jax.Array:
    """Returns numbers [B, T, H] of heads for each of their channels in `of` [B, T, H K].

    By a product with ones: a broadcast into heads would copy arrays from one layout into another.
    """
    heads = x.shape[2]
    ones = jnp.repeat(jnp.eye(heads, dtype=x.dtype), of.shape[2] // heads, axis=1)
    return dot("bth,hc->btc", x, ones).astype(x.dtype)


def _attention(form: str, *qkv):
    o = ops.attention(*_heads(*qkv, heads=8), method=form)
    return o.reshape(qkv[0].shape)


def _linear_attention(form: str, q, k, v, log_decay, state, starts, r=None):
    """With a decay per head, or per channel where there are as many as channels."""
    if log_decay.shape == k.shape:
        (log_decay,) = _heads(log_decay, heads=16)
    q, k, v = _heads(q, k, v, heads=16)
    o, S = ops.linear_attention(q, k, v, log_decay, state, r=r, starts=starts, method=form)
    return o.reshape(*o.shape[:2], -1), S


def _delta_rule(form: str, q, k, v, log_decay, beta, state, starts):
    """S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T."""
    a, b = (
        x if x.shape == k.shape else _channels(x, k)
        for x in (each.astype(k.dtype) for each in (jnp.exp(log_decay), beta))
    )
    (r,) = _heads(k * a, heads=16)
    return _linear_attention(form, q, k * b, v, log_decay, state, starts, r)


def _gru(form: str, u, W, b, h0, starts):
    return ops.gru(u, W.astype(u.dtype), b, h0, starts=starts, method=form)


def _lstm(form: str, u, W, h0, c0, starts):
    return ops.lstm(u, W.astype(u.dtype), h0, c0, starts=starts, method=form)


def _slstm(form: str, u, R, h, c, n, m, starts):
    """With gates in float32, as the mixer has them."""
    u = u.reshape(*u.shape[:2], *R.shape[:1], *R.shape[2:])
    hs, state = ops.slstm(u, R.astype(jnp.bfloat16), (h, c, n, m), starts=starts, method=form)
    return hs.reshape(*hs.shape[:2], -1), state


_WIDE = _array(B, T, 1024)
_HEADS = _WIDE, _WIDE, _WIDE, _single(B, T, 16)
_STATE = _single(B, 16, 64, 64), _starts
GOALS = {
    "selective scan, E2048 N16": Goal(
        SELECTIVE_SCAN,
        _selective_scan,
        (
            *(_array(B, T, 2048), _single(B, T, 2048), _single(2048, 16)),
            *(_array(B, T, 16), _array(B, T, 16), _single(2048), _single(B, 16, 2048), _starts),
        ),
        forward=1.1e-3,
        train=4.5e-3,
    ),
    "attention, H8 K128, causal": Goal(
        ATTENTION,
        _attention,
        (_WIDE, _WIDE, _WIDE),
        forward=0.9e-3,
        train=3e-3,
    ),
    "linear attention, H16 K64, scalar decay": Goal(
        LINEAR_ATTENTION, _linear_attention, (*_HEADS, *_STATE), forward=0.35e-3, train=1.2e-3
    ),
    "linear attention, H16 K64, vector decay": Goal(
        LINEAR_ATTENTION,
        _linear_attention,
        (_WIDE, _WIDE, _WIDE, _single(B, T, 1024), *_STATE),
        forward=0.7e-3,
        train=1.8e-3,
    ),
    "gated delta rule, H16 K64, scalar decay": Goal(
        LINEAR_ATTENTION,
        _delta_rule,
        (*_HEADS, _single(B, T, 16), *_STATE),
        forward=1e-3,
        train=4e-3,
    ),
    "gated delta rule, H16 K64, vector decay": Goal(
        LINEAR_ATTENTION,
        _delta_rule,
        (_WIDE, _WIDE, _WIDE, _single(B, T, 1024), _single(B, T, 16), *_STATE),
        forward=3e-3,
        train=9e-3,
    ),
    "GRU, D1024": Goal(
        GRU,
        _gru,
        (_array(B, T, 3072), _single(1024, 3072), _single(3072), _single(B, 1024), _starts),
        forward=9e-3,
        train=27e-3,
    ),
    "LSTM, D1024": Goal(
        LSTM,
        _lstm,
        (_array(B, T, 4096), _single(1024, 4096), *[_single(B, 1024)] * 2, _starts),
        forward=12e-3,
        train=36e-3,
    ),
    "sLSTM, H4 K256": Goal(
        SLSTM,
        _slstm,
        (_single(B, T, 4096), _single(4, 256, 4, 256), *[_single(B, 4, 256)] * 4, _starts),
        forward=3e-3,
        train=9e-3,
    ),
}
