"""What mixers share whose state is a matrix for each head.

    u = conv(W x)                           where the mixer has a convolution
    q, k, v, ... = tokens of (x_t, u_t)     what each of them defines
    S_t = diag(a_t) S_{t-1} - p_t (r_t^T S_{t-1}) + k_t v_t^T,    o_t = S_t^T q_t
    y_t = W_o (norm(o_t) * gate(x_t))

The recurrence is that of seqarch/ops/linear_attention.py; the norm is that of each head's channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear, RMSNorm
from seqarch.mixers.base import SequenceMixer, masks
from seqarch.mixers.causal_conv import uniform_conv
from seqarch.mixers.heads import split_heads
from seqarch.ops.linear_attention import (
    FORMS,
    Tokens,
    idle,
    linear_attention,
    linear_attention_step,
)
from seqarch.types import Array, Bool, DTypeLike, Float


class MatrixState(NamedTuple):
    """The last W - 1 inputs of the convolution, and a matrix for each head."""

    conv: Float[Array, "B _ E"]
    S: Float[Array, "B H K V"]


class MatrixMixer(SequenceMixer):
    """A mixer whose state is a matrix for each head; it is computed in float32.

    A subclass defines `_tokens`, and `_output` where it differs.

    Args:
      dim: width D.
      heads: number of heads H.
      key: channels K of a head's keys.
      value: channels V of a head's values.
      channels: channels E that W has and the convolution mixes; None: all of q, k and v.
      conv_width: width of the convolution in tokens; None: none.
      conv_bias: whether the convolution has a bias.
      gate: the activation of the output's gate; None: no gate.
      gate_rank: channels between the factors of the gate's projection; None: a single factor.
      bias: whether W, the gate's projection and W_o have a bias.
      method: a form of ops.linear_attention.
      chunk: tokens per chunk of the forms in chunks.
      dtype: of the computation.
      state_dtype: of S between calls.
      rngs: for the parameters.
    """

    forms = FORMS
    state_axes = MatrixState(("batch", None, "inner"), ("batch", "heads", None, None))

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        key: int,
        value: int,
        channels: int | None = None,
        conv_width: int | None = None,
        conv_bias: bool = False,
        gate: Callable[[Array], Array] | None = None,
        gate_rank: int | None = None,
        bias: bool = False,
        method: str,
        chunk: int,
        dtype: DTypeLike,
        state_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.heads, self.key, self.value = heads, key, value
        self.channels = heads * (2 * key + value) if channels is None else channels
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        linear = dict(rngs=rngs, dtype=dtype, bias=bias)
        self.inp = Linear(dim, self.channels, ("embed", "inner"), **linear)
        conv = None
        if conv_width is not None:
            conv = uniform_conv(conv_width, self.channels, "inner", rngs, dtype, conv_bias)
        self.conv = conv
        self.norm = RMSNorm(value, eps=1e-5, rngs=rngs)
        self.activation, width = gate, heads * value
        low = gated = None  # assigned once, since nnx takes an attribute of None for static
        if gate and gate_rank:
            low = Linear(dim, gate_rank, ("embed", None), **linear)
            gated = Linear(gate_rank, width, (None, "heads"), **linear)
        elif gate:
            gated = Linear(dim, width, ("embed", "heads"), **linear)
        self.gate_low, self.gate = low, gated
        self.out = Linear(width, dim, ("heads", "embed"), **linear, residual=True)

    def init_state(self, batch, max_len):
        conv = jnp.zeros((batch, 0, self.channels), self.dtype)
        if self.conv is not None:
            conv = self.conv.init_state(batch)
        S = jnp.zeros((batch, self.heads, self.key, self.value), self.state_dtype)
        return MatrixState(conv, S)

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        u, conv = self._channels(x), state.conv
        if self.conv is not None:
            u, conv = self.conv(u, conv, starts, lengths)
        tokens = self._tokens(x, u)
        tokens = tokens if valid is None else idle(tokens, valid)
        o, S = self._recur(tokens, state.S.astype(jnp.float32), starts, valid)
        return self._output(o, x, u), MatrixState(conv, S.astype(self.state_dtype))

    def step(self, x, state):
        u, conv = self._channels(x), state.conv
        if self.conv is not None:
            u, conv = self.conv.step(u, conv)
        o, S = self._recur_step(self._tokens(x, u), state.S.astype(jnp.float32))
        return self._output(o, x, u), MatrixState(conv, S.astype(self.state_dtype))

    def _channels(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """Returns what the convolution mixes."""
        return self.inp(x)

    def _tokens(self, x: Float[Array, "... D"], u: Float[Array, "... E"]) -> Tokens:
        """Returns what tokens do to the state, from the inputs and from the convolution's outputs.

        The arrays are [..., H, K] and so on, and have no `starts`.
        """
        raise AssertionError(f"{type(self).__name__} does not define _tokens")

    def _recur(
        self,
        tokens: Tokens,
        S: Float[Array, "B H K V"],
        starts: Bool[Array, "B T"] | None,
        valid: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
        """Returns the outputs of the recurrence and its final state."""
        q, k, v, g, p, r, negative, _ = tokens
        how = dict(starts=starts, method=self.method, chunk=self.chunk)
        return linear_attention(q, k, v, g, S, p=p, r=r, negative=negative, **how)

    def _recur_step(self, tokens: Tokens, S: Float[Array, "B H K V"]):
        """Returns the output of the recurrence for one token, and the state after it."""
        return linear_attention_step(tokens, S)

    def _output(
        self, o: Float[Array, "... H V"], x: Float[Array, "... D"], u: Float[Array, "... E"]
    ) -> Float[Array, "... D"]:
        y = self.norm(o).reshape(*o.shape[:-2], -1).astype(self.dtype)
        if self.gate is not None:
            y = y * self.activation(self.gate(x if self.gate_low is None else self.gate_low(x)))
        return self.out(y)

    def _split(self, u: Float[Array, "... E"]) -> tuple[Array, Array, Array]:
        """Returns q, k [..., H, K] and v [..., H, V] of the channels u."""
        width = self.heads * self.key
        q, k, v = jnp.split(u, [width, 2 * width], axis=-1)
        return tuple(split_heads(each, self.heads) for each in (q, k, v))
