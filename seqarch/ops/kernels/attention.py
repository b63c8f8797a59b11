"""Attention on a TPU: the form "pallas" of seqarch.ops.attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.ops.bias import Gates
from seqarch.ops.blockwise import blockwise
from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.attention_calls import backward, forward
from seqarch.ops.kernels.attention_kernels import LN2, How
from seqarch.ops.kernels.attention_operands import AttentionGradients, Documents, RotaryFactors
from seqarch.ops.kernels.block_pairs import WORDS, Pairs, order_pairs, visible_pairs
from seqarch.ops.kernels.call import say_once
from seqarch.ops.numerics import fill
from seqarch.ops.online_softmax import NOTHING, Partial
from seqarch.ops.rope import Rope
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.ops.visibility import Places, Rule, is_plain
from seqarch.types import Array, Float

# Bytes of the sums of gradients for queries, which stay in fast memory: at most, or half of it with
# operands in float32; and with blocks of SIZE. A v4 has 16 MiB in all. On a v5e, 16,384 tokens of 8
# heads of 128 are estimated at 18.3 ms forward and backward, and at 16.8 if all could stay.
SUMMED, FEW = 5 * 2**20, 2**20
# Tokens of a block. On a v5e, 2,048 tokens in bfloat16 are estimated at 2.2 ms forward and backward
# in blocks of 1,024, 2.4 of 512 and 4.1 of 256.
SIZE, SMALL = 1024, 512
NONE = -2  # the document of an absent key, of which no query is


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    at_q: Places,
    at_k: Places,
    rule: Rule,
    *,
    block: int,
    alibi: bool = False,
    gates: tuple[Gates, Gates] | None = None,
    relative: Array | None = None,
    rope: Rope | None = None,
) -> Partial:
    """Returns attention by the kernels, or by the blockwise form where they do not apply.

    They apply where order and documents alone say what is visible, and scores have no bias. Where
    there is `rope`, it rotates queries and keys first; the kernels do so themselves.
    """
    biased = alibi or gates is not None or relative is not None
    T, S, v_channels = q.shape[1], k.shape[1], v.shape[-1]
    how = _how(q, k, v, rule)
    if rope is not None:
        how = how._replace(half=rope.half(q.shape[-1]))
    if biased or not (is_plain(rule) and _fits(len(q), T, S, how)):
        bias = dict(alibi=alibi, gates=gates, relative=relative)
        if rope is not None:
            q, k = rope.turn(q, at_q.position), rope.turn(k, at_k.position)
        return blockwise(q, k, v, at_q, at_k, rule, block=block, **bias)
    q_segment = k_segment = None
    if rule.order != "whole" or (not rule.causal and S % how.size):
        absent = at_q.position < 0 if rule.causal else jnp.zeros_like(at_q.position, bool)
        q_segment = fill(jnp.where(absent, -1, at_q.segment), 1, how.size, -1)
        k_segment = fill(jnp.where(at_k.position < 0, NONE, at_k.segment), 1, how.size, NONE)
    if how.share == 1 and k.shape[2] != q.shape[2]:
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    K, V = (lanes // how.heads for lanes in how.lanes)
    factors = None if rope is None else _factors(rope, at_q, at_k, q.shape[-1], K, how)
    q, k, v = (_flat(x, how.size, width) for x, width in ((q, K), (k, K), (v, V)))
    o, log_total = _attend(q, k, v, q_segment, k_segment, factors, how)
    o = o.reshape(*o.shape[:2], -1, V)[:, :T, :, :v_channels]
    return Partial(o, log_total[:, :T])


def _factors(
    rope: Rope, at_q: Places, at_k: Places, channels: int, width: int, how: How
) -> RotaryFactors:
    """Returns the factors of a block of heads, of `channels` filled up to `width`."""

    def of(at: Places) -> tuple[Array, ...]:
        each = (fill(x, 2, width) for x in rope.factors(fill(at.position, 1, how.size), channels))
        return tuple(jnp.tile(x, (1, 1, how.heads)) for x in each)

    of_q = of(at_q)
    return RotaryFactors(*of_q, *(of_q if at_k is at_q else of(at_k)))


def _how(q: Array, k: Array, v: Array, rule: Rule) -> How:
    """Returns what the kernels need to know of the operands of `attend`."""
    (_, T, H, K), (S, G, V) = q.shape, v.shape[1:]
    widths, heads = [_width(x) for x in (K, V)], 1
    if max(widths) < LANES and H % (LANES // max(widths)) == 0:
        heads, widths = LANES // max(widths), [max(widths)] * 2
    else:
        widths = [-(-x // LANES) * LANES for x in widths]
    share = H // G if heads == 1 else 1
    lanes = tuple(heads * width for width in widths)
    is_small = 4 * T * lanes[0] > FEW or q.dtype.itemsize > 2 or (rule.window or SIZE) <= SMALL
    size = _size(max(T, S), is_small)
    return How(size, rule.causal, rule.window, K**-0.5, heads, share, lanes)


def _width(channels: int) -> int:
    """Returns the channels of a head with those that are added, so that heads fill the lanes."""
    return max(16, 2 ** (channels - 1).bit_length()) if channels <= LANES else channels


def _flat(x: Float[Array, "B T H K"], size: int, width: int) -> Array:
    """Returns heads side by side, with zeros up to whole blocks of tokens and `width` channels."""
    x = fill(fill(x, 1, size), 3, width)
    return x.reshape(*x.shape[:2], -1)


def _size(tokens: int, is_small: bool) -> int:
    """Returns the tokens of a block, a multiple of LANES, so that few are added."""
    count = -(-tokens // (SMALL if is_small else SIZE))
    return -(-tokens // (count * LANES)) * LANES


def _fits(B: int, T: int, S: int, how: How) -> bool:
    """Returns whether rows divide over the devices, and tables fit their scalar memory.

    Says once where they do not.
    """
    rows, rest = divmod(B, row_devices())
    words, reason = len(_pairs(T, S, how)) * (len(Pairs._fields) + rows), None
    if rest:
        reason = f"{B} rows do not divide over {row_devices()} devices"
    elif words > WORDS:
        reason = f"tables of {T} queries and {S} keys do not fit"
    if reason:
        say_once(f"attention: method=blockwise in place of pallas, as {reason}")
    return reason is None


def _pairs(T: int, S: int, how: How) -> np.ndarray:
    counts = -(-T // how.size), -(-S // how.size)
    return visible_pairs(counts, how.size, how.causal, how.window)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(q, k, v, q_segment, k_segment, factors, how: How):
    """Returns the averages [B,T,HV] and the logs of their denominators [B,T,H]."""
    return _attend_forward(q, k, v, q_segment, k_segment, factors, how)[0]


def _attend_forward(q, k, v, q_segment, k_segment, factors, how: How):
    pairs = order_pairs(*_pairs(q.shape[1], k.shape[1], how).T)
    seen = _documents(q_segment, k_segment, pairs.outer, pairs.inner, how)
    call = lambda rows, _: forward(*rows, pairs, how)
    o, log2_total = by_rows(call, (q, k, v, seen, factors), None)
    log_total = log2_total[:, :, 0].swapaxes(1, 2)
    log_total = jnp.where(log_total > NOTHING, LN2 * log_total, NOTHING)
    return (o, log_total), (q, k, v, q_segment, k_segment, factors, o, log2_total)


def _attend_backward(how: How, saved, cotangents):
    q, k, v, q_segment, k_segment, factors, o, log2_total = saved
    do, d_log_total = cotangents
    d_log_total = d_log_total.swapaxes(1, 2)[:, :, None]
    given = q, k, v, o, do, log2_total, d_log_total, factors
    pairs = _pairs(q.shape[1], k.shape[1], how)
    most = max(1, SUMMED // (2 * q.dtype.itemsize * how.lanes[0] * how.size))
    firsts = range(0, pairs[-1, 0] + 1, most)
    sums = None if len(firsts) == 1 else _no_sums(q, k, v, how)
    for first in firsts:
        own = pairs[(pairs[:, 0] >= first) & (pairs[:, 0] < first + most)]
        sums = _gradients(given, sums, (q_segment, k_segment), own, how)
    dq, dk, dv = sums
    dk, dv = (_shared(x, lanes, how).astype(q.dtype) for x, lanes in zip((dk, dv), how.lanes))
    return dq, dk, dv, None, None, None


def _no_sums(q: Array, k: Array, v: Array, how: How) -> AttentionGradients:
    """Returns the gradients before any block of queries has added its own."""
    heads = q.shape[2] // how.lanes[0]
    zeros = (jnp.zeros((*k.shape[:2], heads * lanes), jnp.float32) for lanes in how.lanes)
    return AttentionGradients(jnp.zeros_like(q), *zeros)


def _gradients(
    given, sums: AttentionGradients | None, segments, pairs: np.ndarray, how: How
) -> AttentionGradients:
    """Returns the gradients with those of the blocks of queries in `pairs` added to `sums`."""
    how = how._replace(first=int(pairs[0, 0]))
    pairs = order_pairs(*pairs.T[::-1])
    seen = _documents(*segments, pairs.inner, pairs.outer, how)
    call = lambda rows, _: backward(*rows, pairs, how)
    return AttentionGradients(*by_rows(call, (*given, sums, seen), None))


def _shared(d: Float[Array, "B S HK"], lanes: int, how: How) -> Float[Array, "B S GK"]:
    """Returns the sums of gradients over the query heads that share a key head."""
    if how.share == 1:
        return d
    split = d.reshape(*d.shape[:2], -1, how.share, lanes).astype(jnp.float32)
    return split.sum(3).reshape(*d.shape[:2], -1)


_attend.defvjp(_attend_forward, _attend_backward)


def _documents(q_segment, k_segment, q_blocks, k_blocks, how: How) -> Documents | None:
    """Returns the documents, as the kernels take them; None: every row is one."""
    if q_segment is None:
        return None
    of_q, of_k = (x.reshape(len(x), -1, how.size) for x in (q_segment, k_segment))
    low = [jnp.where(x < 0, jnp.iinfo(jnp.int32).max, x).min(-1) for x in (of_q, of_k)]
    high = [x.max(-1) for x in (of_q, of_k)]
    may = low[0][:, q_blocks] <= high[1][:, k_blocks]
    may &= low[1][:, k_blocks] <= high[0][:, q_blocks]
    lanes = jnp.broadcast_to(k_segment[..., None], (*k_segment.shape, LANES))
    return Documents(q_segment[:, None], lanes, may.astype(jnp.int32))
