"""The sLSTM layer of xLSTM (see seqarch/ops/slstm.py for its cell):

    v_t = silu(conv(x))_t
    i, f = W_if v_t + b_if              z, o = W_zo x_t + b_zo
    h_t = sLSTM((i, f, z, o), h_{t-1})  y_t = norm(h_t)

All weights are block-diagonal: each head has its own, for the input and for h. The norm is that of
each head's channels. As in the paper there is no projection of the output, since the MLP after the
mixer has one. Training is sequential in T, as the recurrence is not linear; but see method=newton
(seqarch/ops/newton.py).

As in the paper's code, the weights of the input start from a normal distribution of variance
2 / (5 D), recurrent weights and biases at 0, except for those of the forget gates. These are
5 - 12 (k / (K - 1))^p in channel k of a head's K, with p from 0.3 in the first layer to 1.6 in the
last one. Here p = 0.95 in all layers, the middle, since a mixer does not know its depth.

Source: Beck et al. 2024, "xLSTM: extended long short-term memory", section 2.2 and figure 10 (the
block).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import unknown
from seqarch.layers import whole
from seqarch.mixers.base import SequenceMixer, masks
from seqarch.mixers.causal_conv import uniform_conv
from seqarch.mixers.heads import BlockLinear, HeadNorm, head_width
from seqarch.ops.numerics import rows
from seqarch.ops.slstm import FORGET, FORMS
from seqarch.types import Array, DTypeLike, Float

POWER = 0.95


class SLSTMState(NamedTuple):
    """The state of an sLSTM layer.

    conv: the last W - 1 inputs of the convolution
    h: the last output
    c: the contents of the cells, times exp(-m)
    n: the sum of the input gates, times exp(-m); below 1/2 where the state is empty
    m: the stabiliser
    """

    conv: Float[Array, "B _ D"]
    h: Float[Array, "B H K"]
    c: Float[Array, "B H K"]
    n: Float[Array, "B H K"]
    m: Float[Array, "B H K"]


class SLSTM(SequenceMixer):
    """The sLSTM layer. Gates and the states h, c, n and m stay float32 whatever `dtype` is.

    heads: number of heads H
    conv_width: width W of the convolution before the input and forget gates, in tokens;
      None: none
    forget: "sigmoid" or "exp", what the forget gate is
    method: a form of ops.slstm; "auto": the best one on the device
    state_dtype: dtype of h, c, n and m between calls
    """

    forms = FORMS
    state_axes = SLSTMState(
        conv=("batch", None, "embed"),
        h=("batch", "heads", None),
        c=("batch", "heads", None),
        n=("batch", "heads", None),
        m=("batch", "heads", None),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        conv_width: int | None = 4,
        forget: str = "sigmoid",
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if forget not in FORGET:
            raise unknown("forget gate", forget, FORGET)
        K = head_width("slstm", dim, heads)
        self.dim, self.heads, self.forget, self.method = dim, heads, forget, method
        self.dtype, self.state_dtype = dtype, state_dtype
        self.conv = (
            uniform_conv(conv_width, dim, "embed", rngs, dtype) if conv_width is not None else None
        )
        block = partial(BlockLinear, heads, K, 2, scale=(2 / (5 * dim)) ** 0.5)
        self.input_forget = block(rngs=rngs, dtype=dtype)
        self.proposal_output = block(rngs=rngs, dtype=dtype)
        self.recurrent = nnx.Param(
            jnp.zeros((heads, K, 4, K)), axes=("heads", None, None, "inner"), cast=jnp.dtype(dtype)
        )
        bias = jnp.zeros((heads, 4, K)).at[:, 1].set(5 - 12 * jnp.linspace(0, 1, K) ** POWER)
        self.bias = nnx.Param(bias.reshape(-1), axes=("inner",), decay=False)
        self.norm = HeadNorm(heads, K)

    def init_state(self, batch, max_len):
        conv = jnp.zeros((batch, 0, self.dim), self.dtype)
        if self.conv is not None:
            conv = self.conv.init_state(batch)
        shape = (batch, self.heads, self.dim // self.heads)
        return SLSTMState(conv, *(jnp.zeros(shape, self.state_dtype) for _ in range(4)))

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        v, conv = x, state.conv
        if self.conv is not None:
            v, conv = self.conv(x, conv, starts, lengths)
            v = jax.nn.silu(v)
        return self._run(x, v, conv, state, self.method, starts=starts, valid=valid)

    def step(self, x, state):
        v, conv = x, state.conv
        if self.conv is not None:
            v, conv = self.conv.step(x, conv)
            v = jax.nn.silu(v)
        y, state = self._run(x[:, None], v[:, None], conv, state, "sequential")
        return y[:, 0], state

    def _run(self, x, v, conv, state, method, **masks):
        R = whole(self.recurrent[...].astype(self.dtype))
        before = tuple(s.astype(jnp.float32) for s in state[1:])
        u = self._gates(x, v)
        hs, after = ops.slstm(u, R, before, forget=self.forget, method=method, **masks)
        after = (s.astype(self.state_dtype) for s in after)
        return self.norm(hs).astype(x.dtype), SLSTMState(conv, *after)

    def _gates(
        self, x: Float[Array, "B T D"], v: Float[Array, "B T D"]
    ) -> Float[Array, "B T H 4 K"]:
        """Returns the projections of the inputs to i, f, z and o, in float32."""
        u = jnp.concatenate([self.input_forget(v), self.proposal_output(x)], axis=-2)
        flat = u.reshape(*x.shape[:2], -1)
        return (flat + rows(self.bias[...], flat)).reshape(u.shape)
