"""RWKV-7 "Goose", the time mixing of Peng et al. 2025 (section 4):

    x^c = x_t + mu_c * (x_{t-1} - x_t)              for each c of r, w, k, v, a, g
    r, k, v = W_r x^r, W_k x^k, W_v x^v
    log w = -e^(-1/2) sigmoid(lora_w(x^w))          the decay, per key channel
    a = sigmoid(lora_a(x^a)),    g = lora_g(x^g)    the in-context learning rate, the output's gate
    kappa = k * xi, of norm 1 in each head,    k~ = k * (1 + (a - 1) * alpha)
    S_t = diag(w_t) S_{t-1} - (a_t * kappa_t) (kappa_t^T S_{t-1}) + k~_t v_t^T
    y_t = W_o ((norm(S_t^T r_t) + (r_t . (rho * k~_t)) v_t) * g)

The norm is a layer norm with a bias. The paper mixes the first layer's values into those of later
layers; a mixer knows no other layer, so that is left out. Its mu, the biases of the decay and the
scale of the norm depend on the layer: here they start as in the middle one. Ranks, and what vectors
start from, are those of the paper's code. Both factors of a low-rank projection start random, the
second one small; there the first one and W_o start at 0, and W_r, W_k and W_v smaller.

Source: Peng et al. 2025, "RWKV-7 Goose with expressive dynamic state evolution".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.layers import Linear
from seqarch.mixers.deltanet import unit
from seqarch.mixers.heads import HeadNorm, head_width, split_heads
from seqarch.mixers.matrix_state import MatrixMixer
from seqarch.ops.linear_attention import Tokens
from seqarch.ops.numerics import dot, rows, spread
from seqarch.types import Array, DTypeLike, Float

MIXED = {"r": 0.1, "w": 0.45, "k": 0.35, "v": 0.35, "a": 0.45, "g": 0.1}  # how fast mu_c rises
EPS, SCALE = 64e-5, 0.5**0.7  # of the norm


class RWKV7(MatrixMixer):
    """The time mixing of RWKV-7.

    heads: number H of heads; the paper's heads have 64 channels
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        method: str = "auto",
        chunk: int = 32,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        K = head_width("rwkv7", dim, heads)
        self.heads, self.key, self.value, self.channels = heads, K, K, dim
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        self.conv = Shift(dim, dtype)
        place = jnp.arange(dim) / dim

        def channels(start: Array) -> nnx.Param:
            return nnx.Param(start, axes=("embed",), decay=False)

        self.mu = nnx.Dict({c: channels(1 - place**power) for c, power in MIXED.items()})
        make = lambda axes, **how: Linear(dim, dim, axes, rngs=rngs, dtype=dtype, **how)
        self.r, self.k, self.v = (make(("embed", "heads")) for _ in range(3))
        self.out = make(("heads", "embed"), residual=True)
        rank, gate_rank = (max(32, 32 * round(r / 32)) for r in (1.8 * dim**0.5, 0.6 * dim**0.8))
        fast = -6.5 + 5 * jnp.linspace(0, 1, dim) ** 1.557
        self.w = LowRank(dim, rank, jnp.tanh, fast, rngs=rngs)
        self.a = LowRank(dim, rank, None, jnp.zeros(dim), rngs=rngs)
        self.g = LowRank(dim, gate_rank, jax.nn.sigmoid, None, rngs=rngs)
        self.xi = channels(jnp.full(dim, 0.85))
        self.alpha = channels(jnp.ones(dim))
        self.rho = channels(jnp.zeros(dim))
        self.norm = HeadNorm(heads, K, eps=EPS, bias=True)
        self.norm.scale[...] = jnp.full(dim, SCALE)

    def _channels(self, x):
        return x

    def _tokens(self, x, u):
        r, k, v, a = self._read_in(x, u)
        w = self.w(self._mixed("w", x, u))
        log_w = split_heads(-math.exp(-0.5) * jax.nn.sigmoid(w), self.heads)
        kappa = unit(split_heads(k * rows(self.xi[...], k), self.heads))
        r, written, v, a = (split_heads(y, self.heads) for y in (r, self._key(k, a), v, a))
        return Tokens(r, written, v, log_w, p=a * kappa, r=kappa)

    def _output(self, o, x, u):
        r, k, v, a = self._read_in(x, u)
        weighted = r.astype(jnp.float32) * self._key(k, a)
        weighted = weighted * rows(self.rho[...], weighted)
        now = dot("...k,k->...", split_heads(weighted, self.heads), jnp.ones(self.key))
        own = (spread(now, self.key) * split_heads(v, self.heads)).reshape(v.shape)
        y = (self.norm(o) + own) * self.g(self._mixed("g", x, u))
        return self.out(y.astype(self.dtype))

    def _read_in(self, x, u) -> tuple[Array, Array, Array, Array]:
        """Returns r, k and v, and a in float32, all [..., D]."""
        r, k, v = (getattr(self, c)(self._mixed(c, x, u)) for c in "rkv")
        return r, k, v, jax.nn.sigmoid(self.a(self._mixed("a", x, u)))

    def _key(self, k: Float[Array, "... D"], a: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns k~, the key that is written, in float32."""
        return k.astype(jnp.float32) * (1 + (a - 1) * rows(self.alpha[...], a))

    def _mixed(self, c: str, x: Float[Array, "... D"], u: Float[Array, "... D"]):
        return x + rows(self.mu[c][...], x) * (u - x)


class Shift(nnx.Module):
    """The token before each token, zero at a document's start; its state is the last one.

    Args:
      channels: of a token.
      dtype: of the state.
    """

    def __init__(self, channels: int, dtype: DTypeLike):
        self.channels, self.dtype = channels, dtype

    def init_state(self, batch: int) -> Float[Array, "B 1 D"]:
        """Returns the token before the first one, which is zero."""
        return jnp.zeros((batch, 1, self.channels), self.dtype)

    def __call__(self, x, state, starts, lengths):
        """Returns the tokens before those of x, and the state after them; see ops.causal_conv."""
        before = jnp.zeros((2, self.channels)).at[0].set(1.0)
        return ops.causal_conv(x, before, state, starts=starts, lengths=lengths)

    def step(self, x, state):
        """Returns the state's token for each row, and the state after x."""
        return state[:, 0].astype(x.dtype), x[:, None].astype(state.dtype)


class LowRank(nnx.Module):
    """The projection act(x A) B + b through few channels, in float32.

    Args:
      dim: channels of x and of the result.
      rank: channels between A and B.
      act: the activation; None: none.
      bias: b before training; None: no b.
      rngs: for A and B.
    """

    def __init__(
        self,
        dim: int,
        rank: int,
        act: Callable[[Array], Array] | None,
        bias: Float[Array, "D"] | None,
        *,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.down = Linear(dim, rank, ("embed", None), rngs=rngs, dtype=jnp.float32)
        up = 0.3 * rank**-0.5 * jax.random.normal(rngs.params(), (rank, dim))
        self.up = nnx.Param(up, axes=(None, "heads"))
        self.bias = None if bias is None else nnx.Param(bias, axes=("heads",), decay=False)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        low = self.down(x)
        y = dot("...r,re->...e", low if self.act is None else self.act(low), self.up[...])
        return y if self.bias is None else y + rows(self.bias[...], y)
