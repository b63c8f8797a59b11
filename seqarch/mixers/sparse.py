"""Sparse attention: a local window, the first tokens of the document, and every stride-th token.

    y_t = O sum_s softmax_s(q_t . k_s / sqrt(K)) v_s      over s <= t of the document of t with
          t - s < window,   or   s < globals,   or   (t - s) mod stride = 0

Positions t and s count from the start of the document. In a call and in a prompt the three sets,
made disjoint, are three attentions that are merged: each reads only blocks that hold keys it needs,
since the third has its tokens in the order of their positions modulo the stride
(`seqarch.ops.strided`). So time is proportional to T (window + globals + T / stride).

Its state is a full cache of keys and values, with one slot per token, since with a stride every
token is seen again; a step reads all of it. So decoding saves neither memory nor time.

Source: Child et al. 2019, "Generating long sequences with sparse transformers", section 4.3, the
strided pattern, in one merged head as in section 5.1 (window and stride); Beltagy et al. 2020,
"Longformer", section 3.1 (global tokens; here they are the first ones, and see no later token, as
causality demands).
"""

import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.attention import Attention
from seqarch.ops.attention import FORMS
from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.online_softmax import merge
from seqarch.ops.strided import strided
from seqarch.ops.visibility import Rule
from seqarch.types import DTypeLike


class Sparse(Attention):
    """Sparse softmax attention.

    heads: number H of query heads
    kv_heads: number G of key and value heads; None: H
    window: number of the last tokens that a token sees, itself included
    globals: number of the first tokens of its document that a token sees; None: none
    stride: distance of the earlier tokens that a token sees; None: sees none of them
    rope: base of the rotary frequencies; None: no positions
    method: a form of ops.attention; "auto": the best one on the device
    block: keys per block of the blockwise form
    state_dtype: dtype of the cache of keys and values; None: that of the computation
    """

    state_option = None

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        window: int = 128,
        globals: int | None = None,
        stride: int | None = 128,
        rope: float | None = 10_000.0,
        method: str = "auto",
        block: int = 512,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if any(size is not None and size < 1 for size in (window, globals, stride)):
            raise UserError(
                f"sparse: window is {window}, globals is {globals} and stride is {stride}; give "
                "numbers of at least 1, or None for globals or stride"
            )
        common = dict(method=method, block=block, dtype=dtype, state_dtype=state_dtype, rngs=rngs)
        super().__init__(dim, heads=heads, kv_heads=kv_heads, rope=rope, **common)
        first = globals or 0
        rules = [Rule(window=window, first=first)]
        if first:
            rules.append(Rule(end=first))
        if stride is not None:
            rules.append(Rule(first=first, beyond=window, stride=stride))
        self.rules = tuple(rules)

    def _attend(self, tokens, at, known):
        form, q = FORMS.pick(self.method), self._rotate(tokens.q, at)
        parts, kv = [], tokens.cached.values()
        for rule in self.rules:
            if rule.stride is None:
                rule = rule._replace(order=known.order)
                parts.append(form(q, *kv, at, at, rule, block=self.block))
            else:
                parts.append(strided(form, q, *kv, at, rule, block=self.block))
        return merge(*parts)

    def _attend_cache(self, tokens, at, state):
        q, filled = self._rotate(tokens.q, at), state.length.max()
        return cache_attention(q, state.k, state.v, at, state.position, filled, *self.rules)
