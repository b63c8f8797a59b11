"""Multi-head softmax attention: grouped heads, rotary positions, QK-norm, window, sinks and gates.

    y_t = O (g_t * sum_s softmax_s(q_t . k_s / sqrt(K) + b_ts) v_s)       over 0 <= t - s < window

    output gate     g_t = sigmoid(W x_t); 1 without
    ALiBi           b_ts = -2^(-8 h / H) (t - s) for head h = 1 .. H
    relative        b_ts = r_h[bucket of s - t], learned, for T5's buckets of distances; all layers
                    of a model share r, and scores are not divided by sqrt(K)
    forget gates    b_ts = sum of log f_l over l = s+1 .. t, f_l = sigmoid(w . x_l + b) of each head
    sinks           the first n tokens stay visible, and positions are counted within the cache
    both ways       in an encoder, over all s of the document, with causal=False

With n sinks and a window of w, a token of the cache has its rank there as its position. So the
distance to a key in the window is the true one; the distance to sink s is min(t, n + w - 1) - s.

Its state is a cache of keys and values with one slot per token; with a window it is a ring of
n + w slots. With forget gates it has, for each key and head, the sum of the log gates from the key
to the newest token, to which a step adds: so sums that matter, which are small, are exact, however
many tokens came before.

Source: Vaswani et al. 2017, "Attention is all you need", section 3.2; Ainslie et al. 2023, "GQA"
(grouped heads); Su et al. 2021, "RoFormer" (rotary positions); Henry et al. 2020 and Dehghani et
al. 2023 (QK-norm); Beltagy et al. 2020, "Longformer" (sliding window); Xiao et al. 2024, "Efficient
streaming language models with attention sinks", section 3.2 (sinks); Press et al. 2022, "Train
short, test long" (ALiBi); Raffel et al. 2020, "Exploring the limits of transfer learning with a
unified text-to-text transformer", section 2.1 (relative); Lin et al. 2025, "Forgetting transformer"
(forget gates); Qiu et al. 2025, "Gated attention for large language models" (output gate, position
G1).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.layers import Linear, RMSNorm
from seqarch.mixers.attention_options import (
    check_causal,
    check_heads,
    check_positions,
    check_window,
    rotated_channels,
)
from seqarch.mixers.cached import CachedMixer, Projections, no_tokens
from seqarch.ops.attention import FORMS
from seqarch.ops.bias import buckets, cumulate, difference
from seqarch.ops.cache_attention import cache_attention, cache_attention_on_tpu
from seqarch.ops.online_softmax import merge
from seqarch.ops.rope import Rope
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, DTypeLike, Float, Int


class KVCache(NamedTuple):
    """A cache of keys, rotated at their own positions, and values.

    position: the position of the token in each slot; -1 where the slot is empty
    length: tokens of the current document so far, which is the next position
    fade: sums of log forget gates after each token up to the newest; None: no gates
    """

    k: Float[Array, "B G S K"]
    v: Float[Array, "B G S K"]
    position: Int[Array, "B S"]
    length: Int[Array, "B"]
    fade: Float[Array, "B H S"] | None = None


class Attention(CachedMixer):
    """Softmax attention.

    heads: number H of query heads
    kv_heads: number G of key and value heads; None: H
    head_dim: channels K of a head; None: D / H
    bias: whether the projections to queries, keys and values have a bias
    out_bias: whether the projection of the heads' outputs has a bias
    window: number of tokens that a token sees, itself included; None: all up to itself
    sink: number of first tokens of a document that stay visible besides the window; None: none
    rope: base of the rotary frequencies; None: no positions
    rope_scaling: frequencies for a longer context: linear:FACTOR, llama3:FACTOR:LOW:HIGH:LENGTH,
      yarn:FACTOR:FAST:SLOW:LENGTH:SCALE; None: as they are
    rope_share: share of a head's channels that are rotated, its first ones
    alibi: whether scores fall with the distance, with ALiBi's slopes; instead of rope
    relative: number of T5's buckets of distances, of which each head learns a bias (32 in T5);
      instead of rope; None: none
    forget: whether each head has a forget gate, computed from the token
    causal: whether a token sees no later one; False in encoders
    gated: whether the heads' outputs are multiplied by a sigmoid gate, computed from the token
    qk_norm: whether queries and keys are normalised
    norm_eps: number that QK-norm adds to the mean square
    method: a form of ops.attention; "auto": the best one on the device
    block: keys per block of the blockwise form
    state_dtype: dtype of the cache of keys and values; None: that of the computation
    """

    forms, state_option = FORMS, "window"

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        out_bias: bool = False,
        window: int | None = None,
        sink: int | None = None,
        rope: float | None = 10_000.0,
        rope_scaling: str | None = None,
        rope_share: float = 1.0,
        alibi: bool = False,
        relative: int | None = None,
        forget: bool = False,
        causal: bool = True,
        gated: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        method: str = "auto",
        block: int = 512,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        kv_heads = heads if kv_heads is None else kv_heads
        inner = dim if head_dim is None else heads * head_dim
        name = type(self).__name__.lower()
        check_heads(name, inner, heads, kv_heads)
        self.rotated = rotated_channels(name, inner // heads, rope, rope_share)
        check_window(window, sink)
        check_positions(rope, rope_scaling, alibi, relative, sink)
        check_causal(causal, window, forget)
        self.causal, self.relative, self.rope_scaling = causal, relative, rope_scaling
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, inner // heads
        self.window, self.sink, self.rope, self.alibi = window, sink or 0, rope, alibi
        self.method, self.block = method, block
        self.dtype, self.state_dtype = dtype, state_dtype or dtype
        self._add_projections(dim, bias, out_bias, gated, forget, rngs)
        norm = partial(RMSNorm, self.head_dim, eps=norm_eps, rngs=rngs)
        self.q_norm, self.k_norm = (norm() if qk_norm else None for _ in range(2))
        self.table = None if relative is None else self._table(dim, rngs)

    def _add_projections(self, dim, bias, out_bias, gated, forget, rngs):
        inner, how = self.heads * self.head_dim, dict(rngs=rngs, dtype=self.dtype)
        projection = partial(Linear, dim, axes=("embed", "heads"), **how)
        self.q = projection(inner, bias=bias)
        self.k, self.v = (projection(self.kv_heads * self.head_dim, bias=bias) for _ in range(2))
        self.forget = projection(self.heads, bias=True) if forget else None
        self.gate = projection(inner) if gated else None
        self.out = Linear(inner, dim, ("heads", "embed"), bias=out_bias, residual=True, **how)

    def _table(self, dim: int, rngs: nnx.Rngs) -> nnx.Param:
        """Returns the biases of distances; shrinks q, for scores as if divided by sqrt(K)."""
        self.q.kernel = self.q.kernel.replace(self.q.kernel[...] * self.head_dim**-0.5)
        table = dim**-0.5 * jax.random.normal(rngs.params(), (self.heads, self.relative))
        return nnx.Param(table, axes=("heads", None), decay=False, shared=True)

    @property
    def state_axes(self):
        kv = ("batch", "heads", None, None)
        fade = None if self.forget is None else ("batch", "heads", None)
        return KVCache(k=kv, v=kv, position=("batch", None), length=("batch",), fade=fade)

    def init_state(self, batch, max_len):
        slots = self._slots(max_len)
        if slots and not self.causal:
            raise UserError(
                "attention(causal=False) sees later tokens, so it has no cache and no step; use it "
                "in an encoder, or set causal=True"
            )
        shape = (batch, self.kv_heads, slots, self.head_dim)
        k, v = jnp.zeros(shape, self.state_dtype), jnp.zeros(shape, self.state_dtype)
        fade = None if self.forget is None else jnp.zeros((batch, self.heads, slots))
        return KVCache(k, v, **no_tokens(batch, slots), fade=fade)

    def _project(self, x, at, state):
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.head_dim) for p in (self.q, self.k, self.v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.table is not None:
            q = q * jnp.asarray(self.head_dim**0.5, q.dtype)  # undoes the division by sqrt(K)
        tokens = Projections(q, {"k": self._rotate(k, at), "v": v}, more=k)
        if self.forget is None:
            return tokens
        log_gate = jax.nn.log_sigmoid(self.forget(x).astype(jnp.float32))
        gates = cumulate(jnp.where((at.position >= 0)[:, :, None], log_gate, 0))
        last = jax.tree.map(lambda x: x[:, -1:], gates)
        cached = tokens.cached | {"fade": difference(last, gates)}
        return tokens._replace(cached=cached, gates=gates)

    @property
    def _rope(self) -> Rope | None:
        return None if self.rope is None else Rope(self.rope, self.rope_scaling, self.rotated)

    def _rotate(self, x: Float[Array, "B T H K"], at: Places) -> Array:
        return x if self._rope is None else self._rope.turn(x, at.position)

    def _groups(self, q: Float[Array, "B T H K"], at: Places) -> list[tuple[Array, Places, Rule]]:
        """Returns queries, their places and a rule for each group of keys, sinks last."""
        groups = [(self._rotate(q, at), at, Rule(self.causal, self.window, first=self.sink))]
        if self.sink:
            rank = jnp.minimum(at.position, self.sink + self.window - 1)
            ranked = at._replace(position=rank)
            groups.append((self._rotate(q, ranked), ranked, Rule(end=self.sink)))
        return groups

    @property
    def _by_distance(self) -> Float[Array, "H W"] | None:
        """The bias of each distance; None: there is none."""
        table = self.table
        return None if table is None else table[...][:, buckets(self.relative, self.causal)]

    def _attend(self, tokens, at, known):
        form, k, v = FORMS.pick(self.method), tokens.cached["k"], tokens.cached["v"]
        gates = None if tokens.gates is None else (tokens.gates, tokens.gates)
        how = dict(block=self.block, alibi=self.alibi, gates=gates, relative=self._by_distance)
        if self.is_tpu_kernel and not self.sink:  # it rotates them itself
            rule = known._replace(causal=self.causal, window=self.window)
            return form(tokens.q, tokens.more, v, at, at, rule, rope=self._rope, **how)
        parts = []
        for q, there, rule in self._groups(tokens.q, at):
            rule = rule._replace(order=known.order, alone=known.alone and not self.sink)
            parts.append(form(q, k, v, there, at, rule, **how))
        return merge(*parts)

    def _attend_cache(self, tokens, at, state):
        form = cache_attention_on_tpu if self.is_tpu_kernel else cache_attention
        gates = dict(gate=tokens.gates, fade=state.fade)
        how = dict(alibi=self.alibi, relative=self._by_distance, **gates)
        parts, slots = [], state.length.max()
        for q, there, rule in self._groups(tokens.q, at):
            filled = slots if rule.end is None else jnp.minimum(slots, rule.end)
            given = q, state.k, state.v, there, state.position, filled, rule
            parts.append(form(*given, **how))
        return merge(*parts)

    def _write(self, state, tokens, *args):
        if tokens.gates is not None:
            total = difference(tokens.gates, jax.tree.map(jnp.zeros_like, tokens.gates))[:, -1]
            total = jnp.where((state.position >= 0)[:, None], total[:, :, None], 0)
            state = state._replace(fade=state.fade + total)
        return super()._write(state, tokens, *args)

    def _output(self, y, x):
        y = y.reshape(*x.shape[:2], -1)
        return self.out(y if self.gate is None else y * jax.nn.sigmoid(self.gate(x)))
