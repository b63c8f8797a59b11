"""Linear attention (Katharopoulos et al. 2020, "Transformers are RNNs", equations 16-20):

    S_t = a_t S_{t-1} + phi(k_t) v_t^T
    z_t = a_t z_{t-1} + phi(k_t)
    y_t = phi(q_t) S_t / (phi(q_t) . z_t + eps)

with phi(x) = elu(x) + 1, or another map of ops/feature_maps.py, and a_t = 1. Without normalisation,
y_t = phi(q_t) S_t. With feature_map="taylor" it is the linear attention of Based (Arora et al.
2024, "Simple linear attention language models balance the recall-throughput tradeoff", section
4.1), whose queries and keys have 16 channels per head. With decay="data", a_t = sigmoid(w . x_t +
b) is one scalar per head and token, as in gated linear attention (Yang et al. 2023, section 4.1,
there one per key channel) and Mamba-2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError, unknown
from seqarch.layers import Linear
from seqarch.mixers.base import SequenceMixer, masks
from seqarch.mixers.heads import head_width, split_heads
from seqarch.ops.feature_maps import FEATURE_MAPS
from seqarch.ops.linear_attention import (
    FORMS,
    Tokens,
    idle,
    linear_attention_and_sums_step,
    linear_attention_step,
)
from seqarch.ops.numerics import spread
from seqarch.types import Array, DTypeLike, Float

EPS = 1e-6  # added to the normaliser phi(q) . z


class LinearAttentionState(NamedTuple):
    """The sums S of key-value products and z of keys; z is empty without normalisation."""

    S: Float[Array, "B H K V"]
    z: Float[Array, "B H K"]


class LinearAttention(SequenceMixer):
    """Linear attention.

    heads: number H of heads
    feature_map: phi: elu, relu, squared_relu, softmax (over features), taylor or identity
    feature_dim: channels of a head's queries and keys before phi; None: D / heads
    normalise: divide by phi(q) . z; identity needs normalise=False
    decay: how the state decays: "none", or "data" for a gate per head and token
    method: a form of ops.linear_attention; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    forms = FORMS
    state_axes = LinearAttentionState(S=("batch", "heads", None, None), z=("batch", "heads", None))

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        feature_map: str = "elu",
        feature_dim: int | None = None,
        normalise: bool = True,
        decay: str = "none",
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        V = head_width("linear_attention", dim, heads)
        if feature_map not in FEATURE_MAPS:
            raise unknown("feature_map of linear_attention", feature_map, FEATURE_MAPS)
        if feature_map == "identity" and normalise:
            raise UserError(
                "linear_attention: feature_map is identity, whose products may be negative and "
                "sum to 0; give normalise=False"
            )
        if feature_dim is not None and feature_dim < 1:
            raise UserError(f"linear_attention: feature_dim is {feature_dim}; give at least 1")
        if decay not in ("none", "data"):
            raise unknown("decay of linear_attention", decay, ("none", "data"))
        if jnp.finfo(state_dtype).nmant < jnp.finfo(jnp.float32).nmant:
            raise UserError(
                f"linear_attention: state_dtype is {state_dtype}, in which a sum over many "
                "tokens loses what each adds; give float32"
            )
        self.heads, self.head_dim, self.feature_map = heads, V, feature_map
        self.feature_dim, self.normalise = feature_dim or self.head_dim, normalise
        self.method, self.chunk, self.dtype, self.state_dtype = method, chunk, dtype, state_dtype
        sizes = (self.feature_dim * heads, self.feature_dim * heads, dim)
        self.q, self.k, self.v = (
            Linear(dim, size, ("embed", "heads"), rngs=rngs, dtype=dtype) for size in sizes
        )
        gate = gate_bias = None  # assigned once, since nnx takes an attribute of None for static
        if decay == "data":
            gate = Linear(dim, heads, ("embed", None), rngs=rngs, dtype=jnp.float32)
            # Before training the heads remember 4, ..., 1024 tokens, evenly in the logarithm:
            # sigmoid(b) = 1 - 1/memory.
            memory = jnp.geomspace(4.0, 1024.0, heads)
            gate_bias = nnx.Param(jnp.log(memory - 1), axes=(None,), decay=False)
        self.gate, self.gate_bias = gate, gate_bias
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs, dtype=dtype, residual=True)

    def init_state(self, batch, max_len):
        channels = jax.ShapeDtypeStruct((self.feature_dim,), self.dtype)
        features = jax.eval_shape(FEATURE_MAPS[self.feature_map], channels).size
        S = jnp.zeros((batch, self.heads, features, self.head_dim), self.state_dtype)
        z = jnp.zeros((batch, self.heads, features if self.normalise else 0), self.state_dtype)
        return LinearAttentionState(S, z)

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        tokens = self._project(x)
        if valid is not None:
            tokens = idle(tokens, valid)
        q, k, v, log_a, *_ = tokens
        how = dict(starts=starts, method=self.method, chunk=self.chunk)
        S, z = (each.astype(jnp.float32) for each in state)
        if not self.normalise:
            o, S = ops.linear_attention(q, k, v, log_a, S, **how)
            return self._output(o), self._state(S, z)
        o, n, S, z = ops.linear_attention_and_sums(q, k, v, log_a, S, z, **how)
        return self._output(o, n), self._state(S, z)

    def step(self, x, state):
        tokens = self._project(x)
        if not self.normalise:
            o, S = linear_attention_step(tokens, state.S)
            return self._output(o), self._state(S, state.z)
        o, n, S, z = linear_attention_and_sums_step(tokens, *state)
        return self._output(o, n), self._state(S, z)

    def _state(self, S: Float[Array, "B H K V"], z: Float[Array, "B H _"]) -> LinearAttentionState:
        return LinearAttentionState(S.astype(self.state_dtype), z.astype(self.state_dtype))

    def _project(self, x: Float[Array, "... D"]) -> Tokens:
        """Returns phi(q), phi(k), v [..., H, K] and log a [..., H] in float32, None for a = 1."""
        q, k, v = (split_heads(p(x), self.heads) for p in (self.q, self.k, self.v))
        phi = FEATURE_MAPS[self.feature_map]
        log_a = None
        if self.gate is not None:
            gate = self.gate(x)
            log_a = jax.nn.log_sigmoid(gate + jnp.broadcast_to(self.gate_bias[...], gate.shape))
        return Tokens(phi(q), phi(k), v, log_a)

    def _output(
        self, y: Float[Array, "... H V"], normaliser: Float[Array, "... H"] | None = None
    ) -> Float[Array, "... D"]:
        if normaliser is not None:
            y = y * spread(1 / (normaliser.astype(jnp.float32) + EPS), self.head_dim)
        return self.out(y.reshape(*y.shape[:-2], -1).astype(self.dtype))
