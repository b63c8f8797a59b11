"""The mLSTM layer of xLSTM, with a matrix for a memory (Beck et al. 2024, section 2.3):

    u, z = W_u x_t, W_z x_t             c = silu(conv(u))
    q, k = W_qk c,    v = W_v u         block-diagonal, in blocks of BLOCK channels
    i, f = W_if (q, k, v) + b           one per head; the input gate is exp(i)
    m_t = max(log sigmoid(f_t) + m_{t-1}, i_t)
    C_t = a_t C_{t-1} + exp(i_t - m_t) k_t v_t^T / sqrt(K)
    n_t = a_t n_{t-1} + exp(i_t - m_t) k_t / sqrt(K),    a_t = exp(log sigmoid(f_t) + m_{t-1} - m_t)
    h_t = C_t^T q_t / max(|n_t . q_t|, exp(-m_t))
    y_t = W_o ((norm(h_t) + s * c_t) * silu(z_t))

m keeps the exponentials bounded and leaves h as it is. As in the paper's code, W_qk and W_v start
from a normal distribution of variance 2 / (5 D), W_if at 0, the biases of the input gates near 0,
and those of the forget gates evenly between 3 and 6.

Source: Beck et al. 2024, "xLSTM: extended long short-term memory", equations 19 to 27 and
figure 11 (the block).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.base import SequenceMixer, masks
from seqarch.mixers.causal_conv import uniform_conv
from seqarch.mixers.heads import BlockLinear, HeadNorm, head_width, split_heads
from seqarch.ops.linear_attention import FORMS, Tokens, linear_attention_and_sums_step
from seqarch.ops.numerics import rows, spread
from seqarch.ops.stabiliser import CLOSED, stabiliser
from seqarch.types import Array, DTypeLike, Float

BLOCK = 4  # channels of a block of W_qk and W_v
LARGEST = 60.0  # exponent of the denominator


class MLSTMState(NamedTuple):
    """The state of an mLSTM layer.

    conv: the last W - 1 inputs of the convolution
    C: the memory, times exp(-m)
    n: the sum of its keys, times exp(-m)
    m: the stabiliser
    """

    conv: Float[Array, "B _ E"]
    C: Float[Array, "B H K V"]
    n: Float[Array, "B H K"]
    m: Float[Array, "B H"]


class MLSTM(SequenceMixer):
    """The mLSTM layer. Gates and the states C, n and m stay float32 whatever `dtype` is.

    expand: inner channels per channel of the model, E / D
    heads: number H of heads
    conv_width: width W of the convolution, in tokens
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of C, n and m between calls
    """

    forms = FORMS
    state_axes = MLSTMState(
        conv=("batch", None, "inner"),
        C=("batch", "heads", None, None),
        n=("batch", "heads", None),
        m=("batch", "heads"),
    )

    def __init__(
        self,
        dim: int,
        *,
        expand: int = 2,
        heads: int = 4,
        conv_width: int = 4,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        E = expand * dim
        self.heads, self.key, self.inner = heads, head_width("mlstm", E, heads), E
        if E % BLOCK:
            raise UserError(f"mlstm: {E} inner channels; {BLOCK} must divide the inner channels")
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        self.up = Linear(dim, E, ("embed", "inner"), rngs=rngs, dtype=dtype)
        self.gate = Linear(dim, E, ("embed", "inner"), rngs=rngs, dtype=dtype)
        self.conv = uniform_conv(conv_width, E, "inner", rngs, dtype)
        blocks = dict(scale=(2 / (5 * dim)) ** 0.5, rngs=rngs)
        self.qk = BlockLinear(E // BLOCK, BLOCK, 2, dtype=dtype, **blocks)
        self.v = BlockLinear(E // BLOCK, BLOCK, 1, dtype=jnp.float32, **blocks)
        self.gates = nnx.Param(jnp.zeros((3 * E, 2 * heads)), axes=("inner", None))
        bias = 0.1 * jax.random.normal(rngs.params(), (heads,))
        bias = jnp.concatenate([bias, jnp.linspace(3.0, 6.0, heads)])
        self.bias = nnx.Param(bias, axes=(None,), decay=False)
        self.norm = HeadNorm(heads, self.key)
        self.skip = nnx.Param(jnp.ones(E), axes=("inner",), decay=False)
        self.out = Linear(E, dim, ("inner", "embed"), rngs=rngs, dtype=dtype, residual=True)

    def init_state(self, batch, max_len):
        C = jnp.zeros((batch, self.heads, self.key, self.key), self.state_dtype)
        return MLSTMState(self.conv.init_state(batch), C, C[..., 0], C[..., 0, 0])

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        u = self.up(x)
        c, conv = self.conv(u, state.conv, starts, lengths)
        c = jax.nn.silu(c)
        q, k, v, i, log_f = self._read_in(u, c)
        if valid is not None:
            i = jnp.where(valid[..., None], i, CLOSED)
            log_f = jnp.where(valid[..., None], log_f, 0.0)
        m, log_a = stabiliser(log_f, i, state.m.astype(jnp.float32), starts)
        k = k * spread(jnp.exp(i - m), self.key)
        C, n = (each.astype(jnp.float32) for each in (state.C, state.n))
        how = dict(starts=starts, method=self.method, chunk=self.chunk)
        o, read, C, n = ops.linear_attention_and_sums(q, k, v, log_a, C, n, **how)
        return self._output(o, read, m, c, x), self._state(conv, C, n, m[:, -1])

    def step(self, x, state):
        u = self.up(x)
        c, conv = self.conv.step(u, state.conv)
        c = jax.nn.silu(c)
        q, k, v, i, log_f = self._read_in(u, c)
        before = state.m.astype(jnp.float32)
        m = jnp.maximum(log_f + before, i)
        k = k * spread(jnp.exp(i - m), self.key)
        tokens = Tokens(q, k, v, log_f + before - m)
        o, read, C, n = linear_attention_and_sums_step(tokens, state.C, state.n)
        return self._output(o, read, m, c, x), self._state(conv, C, n, m)

    def _read_in(self, u: Float[Array, "... E"], c: Float[Array, "... E"]) -> tuple[Array, ...]:
        """Returns q, k, v, i and log sigmoid(f), in float32."""
        q, k = (each.reshape(u.shape) for each in jnp.unstack(self.qk(c), axis=-2))
        v = self.v(u).reshape(u.shape)
        qkv = jnp.concatenate([q, k, v], axis=-1)
        gates = jnp.matmul(qkv, self.gates[...], precision="highest")
        i, f = jnp.split(gates + rows(self.bias[...], gates), 2, axis=-1)
        q, k, v = (split_heads(each, self.heads) for each in (q, k, v))
        return q, k * self.key**-0.5, v, i, jax.nn.log_sigmoid(f)

    def _output(self, o, read, m, c, x):
        least = jnp.exp(jnp.minimum(-m, LARGEST))
        h = o * spread(1 / jnp.maximum(jnp.abs(read), least), self.key)
        y = self.norm(h) + rows(self.skip[...], c) * c
        return self.out((y * jax.nn.silu(self.gate(x))).astype(self.dtype))

    def _state(self, conv, C, n, m) -> MLSTMState:
        return MLSTMState(conv, *(each.astype(self.state_dtype) for each in (C, n, m)))
