"""Softmax attention with grouped key/value heads.

Key j is visible to query i iff

    k_pos[j] >= 0,   their segments agree,   and, when causal, 0 <= q_pos[i] - k_pos[j] < window

(a `seqarch.ops.visibility.Rule` can say more). Scores may have biases (`seqarch.ops.bias`). The
materialised form stores the O(T S) matrix of scores; the blockwise form never builds it, the tiled
form is the blockwise one with smaller blocks, the form "cudnn" is NVIDIA's library for its GPUs,
and the form "pallas" is a kernel for TPUs. Forms return a Partial, so that attention to a cache can
be merged with them.

Source: Vaswani et al. 2017, "Attention is all you need", equation 1; Ainslie et al. 2023, "GQA".
"""

import jax
import jax.numpy as jnp

from seqarch.ops.bias import Gates, cumulate
from seqarch.ops.blocks import pick, score_bias, split_keys, split_queries
from seqarch.ops.blockwise import blockwise
from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.numerics import dot
from seqarch.ops.online_softmax import NOTHING, Partial
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array, Float, Int


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    q_pos: Int[Array, "B T"] | None = None,
    k_pos: Int[Array, "B S"] | None = None,
    *,
    q_seg: Int[Array, "B T"] | None = None,
    k_seg: Int[Array, "B S"] | None = None,
    window: int | None = None,
    causal: bool = True,
    alibi: bool = False,
    log_gate: Float[Array, "B T H"] | None = None,
    relative: Float[Array, "H W"] | None = None,
    method: str = "auto",
    block: int = 512,
) -> Float[Array, "B T H V"]:
    """Returns softmax(q k^T / sqrt(K)) v over the visible keys, and 0 for a query that sees none.

    Args:
      q: queries of H heads.
      k: keys of G heads; G divides H.
      v: values of G heads.
      q_pos: positions of the queries; default: 0, 1, 2, ...
      k_pos: positions of the keys, -1 for an absent key; default: 0, 1, 2, ...
      q_seg: segments of the queries, numbered from 0 on; default: all 0.
      k_seg: segments of the keys; default: all 0.
      window: positions that a query sees, its own included; None: all.
      causal: whether a query sees no later position.
      alibi: whether a score falls with the distance, with the slopes of ALiBi.
      log_gate: logs of forget gates; the score of query i and key j rises by their sum over the
        tokens j + 1 to i. Queries and keys must be of the same tokens. None: no gates.
      relative: what is added to the score of query i and key j, by clip(j - i, -F, F) + F, with
        W = 2 F + 1; None: nothing.
      method: a name in FORMS, or "auto".
      block: keys per block of the blockwise form.
    """
    at_q, at_k = _places(q, q_pos, q_seg), _places(k, k_pos, k_seg)
    gates = None if log_gate is None else (cumulate(log_gate),) * 2
    given = [x is not None for x in (q_pos, k_pos, q_seg, k_seg)]
    rule = Rule(causal, window, order=None if any(given) else "whole", alone=True)
    form = FORMS.pick(method)
    bias = dict(alibi=alibi, gates=gates, relative=relative)
    return form(q, k, v, at_q, at_k, rule, block=block, **bias).o


def _places(x: Array, position: Array | None, segment: Array | None) -> Places:
    shape = x.shape[:2]
    position = jnp.broadcast_to(jnp.arange(shape[1])[None], shape) if position is None else position
    return Places(position, jnp.zeros(shape, jnp.int32) if segment is None else segment)


def _materialised(
    q: Array,
    k: Array,
    v: Array,
    at_q: Places,
    at_k: Places,
    rule: Rule,
    *,
    block: int,
    alibi: bool = False,
    gates: tuple[Gates, Gates] | None = None,
    relative: Float[Array, "H W"] | None = None,
) -> Partial:
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    scores = dot("btgrk,bsgk->bgrts", grouped, k) * q.shape[-1] ** -0.5
    if alibi or gates is not None or relative is not None:
        q_gate, k_gate = gates or (None, None)
        added = dict(alibi=alibi, gate=q_gate, relative=relative)
        queries = split_queries(q, at_q, k.shape[2], q.shape[1], **added)
        keys = split_keys(k, v, at_k, k.shape[1], gate=k_gate)
        scores = scores + score_bias(pick(queries, 0), pick(keys, 0)).reshape(scores.shape)
    seen = visible(at_q, at_k, rule)[:, None, None]
    scores = jnp.where(seen, scores, NOTHING)
    m = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=NOTHING))
    weights = jnp.where(seen, jnp.exp(scores - m), 0.0)
    total = weights.sum(-1, keepdims=True)
    some, total = total > 0, jnp.where(total > 0, total, 1.0)
    o = dot("bgrts,bsgv->btgrv", (weights / total).astype(v.dtype), v)
    o = o.reshape(*q.shape[:3], -1).astype(q.dtype)
    log_total = jnp.where(some, m + jnp.log(total), NOTHING)
    return Partial(o, jnp.moveaxis(log_total[..., 0], 3, 1).reshape(q.shape[:3]))


def _tiled(
    q: Array, k: Array, v: Array, at_q: Places, at_k: Places, rule: Rule, *, block: int, **bias
) -> Partial:
    """Computes attention by blocks that fit a core's cache, at least four per sequence.

    Causality then hides 3/8 of them. On two CPU cores, forward and backward of eight rows of 256
    tokens take 2.7 times as long in one block. Nor is a block larger than a window: with a window
    of 256, 16,384 tokens take twice as long in blocks of 512.
    """
    tokens = min(-(-k.shape[1] // 4), rule.window or block)
    block = min(block, max(LEAST, tokens))
    return blockwise(q, k, v, at_q, at_k, rule, block=block, **bias)


def _pallas(*given, **how) -> Partial:
    from seqarch.ops.kernels.attention import attend

    return attend(*given, **how)


def _cudnn(*given, **how) -> Partial:
    from seqarch.ops.cudnn_attention import attend

    return attend(*given, **how)


LEAST = 64  # tokens of the smallest block of the tiled form
FORMS = Forms(
    {"materialised": _materialised, "blockwise": blockwise, "tiled": _tiled},
    cpu="tiled",
    accelerator="blockwise",
    gpu="cudnn",
    tpu="pallas",
    kernels={"cudnn": Kernel("gpu", _cudnn), "pallas": Kernel("tpu", _pallas)},
)
