"""The recurrent block of Griffin around its real-gated linear recurrent unit (RG-LRU):

    u = conv(W_u x_t + b_u)             a = sigmoid(Lambda)
    r_t = sigmoid(W_r u_t + b_r)        a_t = a^(c r_t), c = 8
    i_t = sigmoid(W_i u_t + b_i)        h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)
    y_t = W_o (gelu(W_g x_t + b_g) h_t) + b_o

W_r and W_i are block-diagonal. a starts with a^2 uniform in [0.9^2, 0.999^2], as in the code of
RecurrentGemma; the paper has a^c uniform in [0.9, 0.999], which forgets more slowly.

The factor sqrt(1 - a_t^2) stands before every token, as in the paper, so a document's first token
and the first token after a state of zeros are the same by the equation itself. RecurrentGemma's
code has 1 in its place at the first token of a document. With `unit_start` it is so here, and the
state then says whether a document is yet to begin.

Source: De et al. 2024, "Griffin: mixing gated linear recurrences with local attention for efficient
language models", sections 2.3 and 2.4.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.base import SequenceMixer, check_unrolled, masks
from seqarch.mixers.causal_conv import CausalConv
from seqarch.mixers.heads import BlockLinear
from seqarch.ops.numerics import rows
from seqarch.ops.scan import FORMS
from seqarch.types import Array, Bool, DTypeLike, Float

C = 8.0
SLOWEST, FASTEST = 0.999, 0.9  # a before training
MOST_BLOCKS = 16  # the paper's number (section 4.1)
STEEPEST = 1000.0  # bound on the derivative of the square root


class RGLRUState(NamedTuple):
    """The last W - 1 inputs of the convolution, and the state h of the recurrence.

    fresh: whether there was no token yet; None: it does not matter
    """

    conv: Float[Array, "B W-1 E"]
    h: Float[Array, "B E"]
    fresh: Bool[Array, "B"] | None = None


class RGLRU(SequenceMixer):
    """Griffin's recurrent block. Gates and the state h stay float32 whatever `dtype` is.

    hidden: width E of the recurrence; None: D, as in RecurrentGemma; the paper has about 4 D / 3
    blocks: blocks of the gates' weights; None: 16, or as many as divide both E and 16
    conv_width: width W of the convolution, in tokens
    unit_start: whether a document's first token enters the state with the factor 1
    method: a form of ops.linear_scan; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of h between calls
    """

    forms, state_option = FORMS, "hidden"

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        blocks: int | None = None,
        conv_width: int = 4,
        unit_start: bool = False,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        E = hidden or dim
        H = blocks or math.gcd(MOST_BLOCKS, E)
        if H < 1 or E % H:
            raise UserError(f"rg_lru: width {E}, blocks {blocks}; blocks must divide the width")
        check_unrolled("conv_width", conv_width)
        self.hidden, self.blocks, self.conv_width = E, H, conv_width
        self.unit_start = unit_start
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        self.inp = Linear(dim, 2 * E, ("embed", "inner"), rngs=rngs, dtype=dtype, bias=True)
        weights = 0.1 * conv_width**-0.5 * jax.random.normal(rngs.params(), (conv_width, E))
        self.conv = CausalConv(weights, axis="inner", dtype=dtype)
        K = E // H
        self.gates = BlockLinear(H, K, 2, scale=K**-0.5, rngs=rngs, dtype=dtype, bias=True)
        squared = jax.random.uniform(rngs.params(), (E,), minval=FASTEST**2, maxval=SLOWEST**2)
        odds = jnp.expm1(-0.5 * jnp.log(squared))  # 1 / a - 1
        self.Lambda = nnx.Param(-jnp.log(odds), axes=("inner",), decay=False)
        self.out = Linear(
            E, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, bias=True, residual=True
        )

    @property
    def state_axes(self):
        fresh = ("batch",) if self.unit_start else None
        return RGLRUState(("batch", None, "inner"), ("batch", "inner"), fresh)

    def init_state(self, batch, max_len):
        h = jnp.zeros((batch, self.hidden), self.state_dtype)
        fresh = jnp.ones(batch, bool) if self.unit_start else None
        return RGLRUState(self.conv.init_state(batch), h, fresh)

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        u, gate = jnp.split(self.inp(x), 2, axis=-1)
        u, conv = self.conv(u, state.conv, starts, lengths)
        first, fresh = self._first(u, state.fresh, starts, valid)
        a, b = self._affine(u, first)
        h0, how = state.h.astype(jnp.float32), dict(method=self.method, chunk=self.chunk)
        hs, h = ops.linear_scan(a, b, h0, starts=starts, valid=valid, **how)
        return self._read(hs, gate), RGLRUState(conv, h.astype(self.state_dtype), fresh)

    def step(self, x, state):
        u, gate = jnp.split(self.inp(x), 2, axis=-1)
        u, conv = self.conv.step(u, state.conv)
        a, b = self._affine(u, state.fresh)
        h = a * state.h.astype(jnp.float32) + b
        fresh = None if state.fresh is None else jnp.zeros_like(state.fresh)
        return self._read(h, gate), RGLRUState(conv, h.astype(self.state_dtype), fresh)

    def _first(
        self,
        u: Float[Array, "B T E"],
        fresh: Bool[Array, "B"] | None,
        starts: Bool[Array, "B T"] | None,
        valid: Bool[Array, "B T"] | None,
    ) -> tuple[Bool[Array, "B T"] | None, Bool[Array, "B"] | None]:
        """Returns which tokens are a document's first, and whether there still was no token."""
        if fresh is None:
            return None, None
        first = jnp.zeros(u.shape[:2], bool) if starts is None else starts
        first = first.at[:, :1].set(first[:, :1] | fresh[:, None])
        read = jnp.full(fresh.shape, u.shape[1] > 0) if valid is None else valid.any(1)
        return first, fresh & ~read

    def _affine(
        self, u: Float[Array, "*BT E"], first: Bool[Array, "*BT"] | None
    ) -> tuple[Float[Array, "*BT E"], ...]:
        """Returns a_t and the input of the recurrence, in float32.

        `first` says which tokens enter with the factor 1; None: none.
        """
        r, i = jnp.unstack(jax.nn.sigmoid(self.gates(u)), axis=-2)
        r, i = r.reshape(u.shape), i.reshape(u.shape)
        log_a = C * r * rows(jax.nn.log_sigmoid(self.Lambda[...]), r)
        factor = bounded_sqrt(-jnp.expm1(2 * log_a))
        if first is not None:
            factor = jnp.where(first[..., None], 1.0, factor)
        return jnp.exp(log_a), factor * i * u.astype(jnp.float32)

    def _read(self, h: Float[Array, "... E"], gate: Float[Array, "... E"]):
        return self.out(jax.nn.gelu(gate) * h.astype(gate.dtype))


@jax.custom_jvp
def bounded_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns sqrt(x), with a derivative of at most STEEPEST.

    1 - a_t^2 is 0 where a_t rounds to 1.
    """
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return jnp.sqrt(x), dx * 0.5 * jax.lax.rsqrt(jnp.maximum(x, 0.25 / STEEPEST**2))
